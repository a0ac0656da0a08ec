from __future__ import annotations

import pytest

from recipe_exp.metrics import Reading
from recipe_exp.metrics.constraints import constraint_adherence, stated_constraints
from recipe_exp.recipes import Recipe, render_markdown

RECIPE = Recipe(
    "Curry",
    ("1 cup coconut milk", "2 onions", "1 cup rice flour", "1 tbsp peanut butter"),
    ("Fry the onions 10 minutes.", "Simmer everything for 1 hour."),
)


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("Write a recipe for curry.", []),
        ("Write a vegan, gluten free recipe", ["gluten-free", "vegan"]),
        ("Curry without nuts, onions and cheese please", ["without cheese", "without nut", "without onion"]),
        ("A sugar-free cake with no butter", ["without butter", "without sugar"]),
        ("No-bake cookies without a fuss", []),
        ("30-minute 5 ingredient curry", ["within 30 minutes", "5 ingredients"]),
        ("A curry in under 2 hours", ["within 120 minutes"]),
    ],
)
def test_what_a_prompt_states(prompt: str, found: list[str]) -> None:
    assert [constraint.text for constraint in stated_constraints(prompt)] == found


def test_an_ingredient_line_states_nothing() -> None:
    assert list(stated_constraints("Use: 1 cup dairy-free milk", ("1 cup dairy-free milk",))) == []


@pytest.mark.parametrize(
    ("prompt", "score"),
    [
        ("vegan", 1.0),
        ("dairy-free", 1.0),
        ("gluten-free", 1.0),
        ("nut-free", 0.0),
        ("vegan, without onions", 1 / 2),
        ("in 70 minutes", 1.0),
        ("in 60 minutes", 0.0),
        ("4 ingredients", 1.0),
        ("3 ingredients", 0.0),
    ],
)
def test_the_share_of_constraints_that_are_met(prompt: str, score: float) -> None:
    assert constraint_adherence(Reading(render_markdown(RECIPE), prompt)) == score


def test_nothing_adheres_to_nothing_and_asks_nothing() -> None:
    assert constraint_adherence(Reading("", "vegan")) == 0.0
    assert constraint_adherence(Reading(render_markdown(RECIPE), "curry")) is None
