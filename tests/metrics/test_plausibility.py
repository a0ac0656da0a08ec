from __future__ import annotations

import pytest

from recipe_exp.metrics import Knowledge, Reading
from recipe_exp.metrics.plausibility import amount_class, quantity_plausibility, unit_class, unit_plausibility
from recipe_exp.recipes import Recipe, parse_ingredient, render_markdown

TRAINING = [
    *[Recipe("Bread", (f"{n} cups flour", "1 tsp salt", "salt", f"{n} eggs"), ("Mix.", "Bake.")) for n in (2, 3) * 10],
    *[Recipe("Soup", ("4 cloves garlic", "1 cup milk", "2 onions"), ("Boil.", "Serve."))] * 20,
]


@pytest.fixture(scope="module")
def taught() -> Knowledge:
    return Knowledge.fit(TRAINING)


def quantity(line: str, knowledge: Knowledge) -> float:
    text = render_markdown(Recipe("X", (line,), ("Mix.",)))
    found = quantity_plausibility(Reading(text, knowledge=knowledge))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("2 cups flour", "2 cups salt"),
        ("1 tsp salt", "1 tsp flour"),
        ("2 eggs", "2 cups eggs"),
        ("salt", "flour"),
        ("2 cups flour", "40 cups flour"),
        ("2 cups flour", "flour"),
        ("2 cups rye flour", "1 clove rye flour"),
    ],
)
def test_usual_amounts_are_more_plausible(taught: Knowledge, better: str, worse: str) -> None:
    assert quantity(better, taught) > 0.5 > quantity(worse, taught)


def test_an_unknown_food_is_neither_plausible_nor_not(taught: Knowledge) -> None:
    assert quantity("2 cups quinoa", taught) == pytest.approx(0.5)


def test_units_are_judged_without_their_number(taught: Knowledge) -> None:
    texts = [render_markdown(Recipe("X", (line,), ("Mix.",))) for line in ("50 cloves garlic", "1 cup garlic")]
    right, wrong = (unit_plausibility(Reading(text, knowledge=taught)) for text in texts)
    assert right is not None
    assert wrong is not None
    assert right > 0.8 > 0.2 > wrong
    assert unit_plausibility(texts[0]) is None


@pytest.mark.parametrize(
    ("line", "amount", "unit"),
    [
        ("1 cup flour", "cup 0", "cup"),
        ("2 cups flour", "cup 2", "cup"),
        ("1 1/2 cups flour", "cup 1", "cup"),
        ("3 eggs", " 3", ""),
        ("salt", " ?", "?"),
        ("pinch of salt", "pinch ?", "pinch"),
        ("0 eggs", " -99", ""),
    ],
)
def test_amounts_are_classes(line: str, amount: str, unit: str) -> None:
    ingredient = parse_ingredient(line)
    assert (amount_class(ingredient), unit_class(ingredient)) == (amount, unit)
