from __future__ import annotations

import re
from itertools import islice

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recipe_exp.recipes.cleaning import clean_recipe
from recipe_exp.recipes.recipe import Recipe


def steps_of(*steps: str) -> tuple[str, ...]:
    return clean_recipe(Recipe("Soup", ("1 leek",), steps)).instructions


def ingredients_of(*lines: str) -> tuple[str, ...]:
    return clean_recipe(Recipe("Soup", lines, ("Boil.",))).ingredients


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (("1. Cut.", "2) Boil.", "Step 3: Eat.", "STEP 4. Rest."), ("Cut.", "Boil.", "Eat.", "Rest.")),
        (("Step 1", "Cut.", "Step 2", "Boil."), ("Cut.", "Boil.")),
        (("1", "Cut in 2 parts.", "2.", "Boil."), ("Cut in 2 parts.", "Boil.")),
        (("1. Cut.", "2. Boil.", "1. Mix.", "2. Pour.", "3. Eat."), ("Cut.", "Boil.", "Mix.", "Pour.", "Eat.")),
        (("1. Cut. 2. Boil at 350. 3. Eat.",), ("Cut.", "Boil at 350.", "Eat.")),
        (("Cut.\nBoil.",), ("Cut.", "Boil.")),
        (("<ol><li>Cut.</li><li>Boil.</li></ol>",), ("Cut.", "Boil.")),
        (("- 1. Cut.", "• 2. Boil."), ("Cut.", "Boil.")),
        (("1. - Cut.", "2. - Boil."), ("Cut.", "Boil.")),
        (("Watch how to make this recipe.", "Cut."), ("Cut.",)),
        (("1. Only one.",), ("Only one.",)),
    ],
)
def test_numbers_that_count_the_steps_go(steps: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert steps_of(*steps) == expected


@pytest.mark.parametrize(
    "steps",
    [
        ("2. Cut.",),
        ("1. Cut.", "Boil."),
        ("1. Cut.", "1. Boil."),
        ("1. Cut.", "3. Boil."),
        ("1 egg. Stir.",),
        ("1 cup of water.", "2 cups of milk."),
        ("1.5 l of water.", "Boil."),
        ("1", "2"),
        ("350", "Bake."),
        ("Mix 1. 2 eggs 2. milk",),
    ],
)
def test_other_digits_are_text(steps: tuple[str, ...]) -> None:
    assert steps_of(*steps) == steps


def test_ingredients_lose_their_marks_and_keep_their_quantities() -> None:
    assert ingredients_of(
        "- 1½ cups flour", "• [ ] 2 eggs", "▢ 100g/4oz butter", "1 tsp salt ADVERTISEMENT", "ADVERTISEMENT", "---", "*"
    ) == ("1 1/2 cups flour", "2 eggs", "100g/4oz butter", "1 tsp salt")
    assert ingredients_of("1 egg\n2 apples") == ("1 egg", "2 apples")
    assert ingredients_of("salt\nand pepper", "1 egg") == ("salt and pepper", "1 egg")
    assert ingredients_of("-18 °C ice", "+1 egg") == ("-18 °C ice", "+1 egg")


def test_titles_are_one_line_without_markup() -> None:
    recipe = clean_recipe(Recipe(" **Mac &amp;amp; <i>Cheese</i>**<br>(easy) ", ("a",), ("b",), 0.5, "here"))
    assert recipe == Recipe("Mac & Cheese (easy)", ("a",), ("b",), 0.5, "here")


LINES = st.text(max_size=25) | st.lists(
    st.sampled_from(
        ["1. ", "2. ", "Step 1: ", "- ", "• ", "<li>", "**", "# ", "ADVERTISEMENT", "\n", "x", "½", " ", "3"]
    ),
    max_size=8,
).map("".join)


@settings(max_examples=300)
@example(title="#<LI>0", ingredients=[], steps=[])
@given(title=LINES, ingredients=st.lists(LINES, max_size=4), steps=st.lists(LINES, max_size=5))
def test_a_clean_recipe_stays_as_it_is(title: str, ingredients: list[str], steps: list[str]) -> None:
    recipe = clean_recipe(Recipe(title, tuple(ingredients), tuple(steps)))
    assert clean_recipe(recipe) == recipe


# Addresses of links, entities and the codes of terminals are no text; numbers of steps are looked at above.
TEXT = st.text(st.characters(exclude_characters="<[&\x1b"), max_size=30)


def digits(text: str) -> list[str]:
    return re.findall("[0-9]", text)


@settings(max_examples=300)
@given(title=TEXT, ingredients=st.lists(TEXT, max_size=4), steps=st.lists(TEXT.map("Then {}".format), max_size=4))
def test_no_digit_is_lost(title: str, ingredients: list[str], steps: list[str]) -> None:
    recipe = clean_recipe(Recipe(title, tuple(ingredients), tuple(steps)))
    for before, after in [
        ([title], [recipe.title]),
        (ingredients, recipe.ingredients),
        (steps, recipe.instructions),
    ]:
        found = iter(digits(" ".join(after)))
        wanted = digits(" ".join(before))
        assert [digit for digit in wanted if any(digit == other for other in found)] == wanted


@given(st.lists(st.text(st.sampled_from("abc 12/½"), min_size=1, max_size=12), min_size=2, max_size=6))
def test_numbering_steps_changes_nothing(steps: list[str]) -> None:
    plain = clean_recipe(Recipe("a", ("b",), tuple(f"x{step}" for step in steps))).instructions
    numbered = (f"{number}. {step}" for number, step in enumerate(plain, start=1))
    assert clean_recipe(Recipe("a", ("b",), tuple(islice(numbered, 99)))).instructions == plain
