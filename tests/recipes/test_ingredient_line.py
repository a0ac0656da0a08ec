from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe_exp.recipes import Ingredient, parse_ingredient, split_measure


@pytest.mark.parametrize(
    ("line", "quantity", "unit", "name"),
    [
        ("2 cups flour", "2", "cup", "flour"),
        ("1 1/2 cups milk", "3/2", "cup", "milk"),
        ("1-1/2 cups milk", "3/2", "cup", "milk"),
        ("1½ cups milk", "3/2", "cup", "milk"),
        (".5 l water", "1/2", "litre", "water"),
        ("0.25 tsp. salt", "1/4", "teaspoon", "salt"),
        ("2 T sugar", "2", "tablespoon", "sugar"),
        ("2 t sugar", "2", "teaspoon", "sugar"),
        ("200ml/7 fl oz cream", "200", "millilitre", "cream"),
        ("7 fl. oz. cream", "7", "fluid ounce", "cream"),
        ("500g/1lb 2oz ripe plums, halved", "500", "gram", "ripe plums"),
        ("1 cup (240 ml) cold water", "1", "cup", "cold water"),
        ("1 (14-ounce) can chopped tomatoes", "1", "can", "tomatoes"),
        ("One 8-ounce package cream cheese", "1", "package", "cream cheese"),
        ("2 x 400g tins lentils", "2", "gram", "lentils"),
        ("a pinch of salt", "1", "pinch", "salt"),
        ("half a lemon", "1/2", None, "lemon"),
        ("2 dozen eggs", "24", None, "eggs"),
        ("a few sprigs of thyme", None, "sprig", "thyme"),
        ("2 large eggs, lightly beaten", "2", None, "eggs"),
        ("3 garlic cloves, crushed", "3", "clove", "garlic"),
        ("3 cloves of garlic", "3", "clove", "garlic"),
        ("1/4 tsp cloves", "1/4", "teaspoon", "cloves"),
        ("2 tbsp finely chopped fresh parsley", "2", "tablespoon", "fresh parsley"),
        ("1 tsp freshly ground black pepper", "1", "teaspoon", "black pepper"),
        ("1 tsp ground cumin", "1", "teaspoon", "ground cumin"),
        ("2 tbsp parsley, chives or dill, chopped", "2", "tablespoon", "parsley chives or dill"),
        ("2 ripe, red tomatoes, peeled and cored", "2", None, "ripe red tomatoes"),
        ("juice of 2 limes", "2", None, "limes"),
        ("oil, for frying", None, None, "oil"),
        ("salt and pepper to taste", None, None, "salt and pepper"),
        ("butter, plus extra for the tin", None, None, "butter"),
        ("Honey 2 tbsp", "2", "tablespoon", "Honey"),
        ("", None, None, ""),
    ],
)
def test_parts_of_a_line(line: str, quantity: str | None, unit: str | None, name: str) -> None:
    found = parse_ingredient(line)
    assert found.quantity == (Fraction(quantity) if quantity else None)
    assert (found.unit, found.name) == (unit, name)


@pytest.mark.parametrize("line", ["2-3 tbsp oil", "2 to 3 tbsp oil", "2 – 3 tbsp oil", "two or three tbsp oil"])
def test_a_range_keeps_both_ends(line: str) -> None:
    assert parse_ingredient(line) == Ingredient(Fraction(2), Fraction(3), "tablespoon", "oil")


words = st.sampled_from(
    ["1", "1/0", "0/5", ".", "½", "9" * 5000, "a", "dozen", "half", "to", "x", "(", ")", "cup", "T", "of", ",", "-"]
)


@given(st.text(max_size=60) | st.lists(words | st.text(max_size=4), max_size=8).map(" ".join))
def test_total_on_any_string(line: str) -> None:
    found = parse_ingredient(line)
    assert found.name == " ".join(found.name.split())
    assert found.quantity_max is None or (found.quantity is not None and found.quantity_max > found.quantity)


def test_letters_that_only_fold_to_number_words_are_not_numbers() -> None:
    assert parse_ingredient("F\u0130VE figs").quantity is None


@given(
    st.integers(1, 999),
    st.integers(1, 9),
    st.integers(2, 16),
    st.sampled_from(["cups", "tsp", "lb", "g", "tablespoons"]),
)
def test_mixed_numbers_are_exact(whole: int, numerator: int, denominator: int, unit: str) -> None:
    found = parse_ingredient(f"{whole} {numerator}/{denominator} {unit} rice")
    assert found.quantity == whole + Fraction(numerator, denominator)
    assert found.name == "rice"


def test_a_long_line_takes_time_in_proportion_to_its_length() -> None:
    # Nested optional groups could backtrack for minutes.
    for part in ("1 ", "(", "a few ", "about ", "1/2 cup, ", "of "):
        started = time.process_time()
        found = parse_ingredient(part * 5000 + "rice")
        # It takes a hundredth of a second where it is in proportion.
        assert time.process_time() - started < 2.0, part
        assert found.name, part


@pytest.mark.parametrize(
    ("line", "measure", "rest"),
    [
        ("1 1/2 cups flour, sifted", "1 1/2 cups", "flour, sifted"),
        ("2 eggs", "2", "eggs"),
        ("salt to taste", "", "salt to taste"),
        ("pinch of salt", "pinch of", "salt"),
        ("1 (14 oz) can beans", "1 can", "beans"),
    ],
)
def test_a_line_is_divided_behind_its_measure(line: str, measure: str, rest: str) -> None:
    assert split_measure(line) == (measure, rest)
