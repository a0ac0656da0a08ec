from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe_exp.data.readers.cooklang import parse, read_cooklang
from recipe_exp.data.readers.rows import Record, Rejection
from recipe_exp.recipes.recipe import Recipe


@pytest.mark.parametrize(
    ("text", "ingredients", "step"),
    [
        ("Boil @eggs{2}.", ["2 eggs"], "Boil eggs."),
        ("Add @sea salt{1%pinch} now", ["1 pinch sea salt"], "Add sea salt now"),
        ("Add @salt, then stir", ["salt"], "Add salt, then stir"),
        ("Use @00 flour{ 250 % g }", ["250 g 00 flour"], "Use 00 flour"),
        ("Use @olive oil{}", ["olive oil"], "Use olive oil"),
        ("Peel @onion{1}(finely diced)", ["1 onion, finely diced"], "Peel onion"),
        ("Mix @flour{=200%g} with @flour{50%g}", ["200 g flour", "50 g flour"], "Mix flour with flour"),
        ("Mix @flour{200%g}, then @flour again", ["200 g flour"], "Mix flour, then flour again"),
        ("Fold @&dough{} and @?nuts{10%g} in", ["10 g nuts"], "Fold dough and nuts in"),
        ("Fry in a #large pan{} or #wok on high", [], "Fry in a large pan or wok on high"),
        ("Bake ~{40%minutes}, rest ~dough{1%hour}", [], "Bake 40 minutes, rest 1 hour"),
        ("Wait ~10 minutes at 180 °C", [], "Wait ~10 minutes at 180 °C"),
        ("Mail me @ home, #1 of all", [], "Mail me @ home, #1 of all"),
        ("Stir [- slowly -]well -- or not", [], "Stir well"),
        ("A line\ngoes on", [], "A line goes on"),
    ],
)
def test_marks_become_ingredients_and_plain_steps(text: str, ingredients: list[str], step: str) -> None:
    assert parse(text, "Soup") == Recipe("Soup", tuple(ingredients), (step,))


def test_paragraphs_are_steps_and_sections_and_notes_are_none() -> None:
    text = "-- a comment\n\nFirst.\n\n\nSecond.\n== Sauce ==\nThird.\n> A note.\nFourth."
    assert parse(text, "x").instructions == ("First.", "Second.", "Third.", "Fourth.")


@pytest.mark.parametrize("text", [">> title: Leek Soup\nBoil.", "---\ntitle: Leek Soup\nservings: 2\n---\nBoil."])
def test_the_title_is_that_of_the_metadata(text: str) -> None:
    assert parse(text, "other") == Recipe("Leek Soup", (), ("Boil.",))


def test_the_file_names_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "Leek Soup.cook"
    path.write_text("Boil @leeks{3}.")
    assert list(read_cooklang(path)) == [Record(str(path), 1, Recipe("Leek Soup", ("3 leeks",), ("Boil leeks.",)))]
    path.write_bytes(b"Boil @cr\xe8me.")
    assert list(read_cooklang(path)) == [Rejection(str(path), 1, "not UTF-8")]


@settings(max_examples=300)
@given(st.text(st.sampled_from("@#~{}%()[]-=>&ab1 \n"), max_size=60))
def test_no_text_raises(text: str) -> None:
    assert isinstance(parse(text, "title"), Recipe)
