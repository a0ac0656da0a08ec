from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe_exp.recipes import singular
from recipe_exp.recipes.words import NUMBER_WORDS


@pytest.mark.parametrize(
    ("plural", "expected"),
    [
        ("tomatoes", "tomato"),
        ("leaves", "leaf"),
        ("berries", "berry"),
        ("radishes", "radish"),
        ("eggs", "egg"),
        ("olives", "olive"),
        ("peas", "pea"),
        ("molasses", "molasses"),
        ("asparagus", "asparagus"),
        ("gas", "gas"),
        ("egg", "egg"),
    ],
)
def test_singular(plural: str, expected: str) -> None:
    assert singular(plural) == expected


@given(st.text(st.sampled_from("aeiosxhctpy"), max_size=8))
def test_singular_is_total_and_never_longer(word: str) -> None:
    assert len(singular(word)) <= len(word)


def test_number_words_are_numbers() -> None:
    assert all(Fraction(value) > 0 for value in NUMBER_WORDS.values())
