from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe_exp.metrics.form import clean_ending, completeness, format_correctness, is_truncated, well_formed
from recipe_exp.recipes import Recipe, read_recipe, render_markdown

Changed = Callable[..., str]
lines = st.lists(st.sampled_from(["1 cup flour", "2 eggs", "Mix the flour.", "Add milk", "Stir."]), max_size=5)
recipes = st.builds(Recipe, st.sampled_from(["Cake", "", "Lemon Pie"]), lines.map(tuple), lines.map(tuple))


@pytest.mark.parametrize("metric", [completeness, format_correctness, well_formed, clean_ending])
def test_a_good_recipe_scores_1(metric: Callable[[str], float], text: str) -> None:
    assert metric(text) == 1.0


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"title": "!!"}, 2 / 3),
        ({"title": "word " * 21}, 2 / 3),
        ({"ingredients": ()}, 2 / 3),
        ({"ingredients": ("salt",)}, (1 + 1 / 3 + 1) / 3),
        ({"ingredients": ("salt", "Salt", "salt!")}, (1 + 1 / 3 + 1) / 3),
        ({"instructions": ("Stir.", "Bake.")}, (1 + 1 + 2 / 3) / 3),
        ({"instructions": tuple(f"Stir {i} times." for i in range(60))}, (1 + 1 + 1 / 2) / 3),
    ],
)
def test_completeness(changed: Changed, parts: dict[str, object], expected: float) -> None:
    assert completeness(changed(**parts)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("**Pancakes**", "# Pancakes"),
        ("**Pancakes**\n\n", ""),
        ("**Pancakes**\n\n", "**Pancakes**\n"),
        ("**Ingredients:**", "Ingredients:"),
        ("**Ingredients:**\n", ""),
        ("- 2 eggs", "* 2 eggs"),
        ("**Instructions:**", "**Directions:**"),
        ("2. Melt", "2) Melt"),
        ("2. Melt", "4. Melt"),
        ("Fry the pancakes until golden.", "Fry the pancakes un"),
        ("3. Fry the pancakes until golden.", "3."),
        ("golden.", "golden.\n\nEnjoy this recipe"),
    ],
)
def test_format_correctness_sees_every_departure(text: str, old: str, new: str) -> None:
    assert old in text
    score = format_correctness(text.replace(old, new))
    assert score is not None
    assert 0.4 < score < 1.0


def test_format_correctness_of_swapped_sections_loses_the_order(text: str) -> None:
    title, *sections = text.split("\n\n")
    # The layout is not the canonical one either, which counts as one line of eleven.
    expected = pytest.approx(7 / 8 - 1 / 11 / 8)
    assert format_correctness("\n\n".join([title, *reversed(sections)])) == expected


@given(recipes)
def test_the_canonical_form_of_a_whole_recipe_is_correct(recipe: Recipe) -> None:
    text = render_markdown(recipe)
    whole = recipe.title and recipe.ingredients and recipe.instructions
    assert (format_correctness(text) == 1.0) == bool(whole and not is_truncated(read_recipe(text)))


def test_an_ending_is_judged_by_the_recipes_own_punctuation(text: str, changed: Changed) -> None:
    assert clean_ending(text[:-3]) == 0.0
    assert clean_ending(text[: text.index("3. ") + 2]) == 0.0
    assert clean_ending(changed(instructions=("Stir", "Bake", "Serve"))) == 1.0
    assert clean_ending(changed(instructions=("Stir all of it and bake",))) == 0.0, "one paragraph without an end"
    assert clean_ending(changed(instructions=("Stir all of it and bake.",))) == 1.0
    assert clean_ending(changed(instructions=())) == 0.0


def test_well_formed_needs_title_ingredients_and_numbered_steps(text: str, changed: Changed, pancakes: Recipe) -> None:
    assert well_formed(changed(ingredients=pancakes.ingredients[:3])) == 1.0
    assert well_formed(changed(ingredients=pancakes.ingredients[:2])) == 0.0
    assert well_formed(changed(instructions=pancakes.instructions[:2])) == 0.0
    assert well_formed(changed(instructions=("Stir.",) * 3)) == 0.0
    assert well_formed(text.replace("**Pancakes**\n\n", "")) == 0.0
    assert well_formed(text.replace("2. ", "- ")) == 0.0
