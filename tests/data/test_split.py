from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe_exp.data.split import split_of
from recipe_exp.errors import DataError

FRACTIONS = st.floats(0.0, 0.49)
TITLES = st.text(min_size=1, max_size=20)


@given(title=TITLES, validation=FRACTIONS, test=FRACTIONS, more_validation=FRACTIONS, more_test=FRACTIONS)
def test_a_growing_fraction_only_takes_from_training(
    title: str, validation: float, test: float, more_validation: float, more_test: float
) -> None:
    before = split_of(title, min(validation, more_validation), min(test, more_test))
    after = split_of(title, max(validation, more_validation), max(test, more_test))
    assert after == before or before == "train"


@given(title=TITLES)
def test_nothing_is_held_out_at_zero(title: str) -> None:
    assert split_of(title, 0.0, 0.0) == "train"


def test_spellings_of_one_title_stay_together() -> None:
    assert all(
        split_of(f"Apple Pie {number}", 0.3, 0.3) == split_of(f" apple   PIE, {number}!", 0.3, 0.3)
        for number in range(200)
    )


def test_the_shares_are_those_asked_for() -> None:
    counts = Counter(split_of(f"recipe {number}", 0.1, 0.2) for number in range(10_000))
    assert counts["validation"] == pytest.approx(1000, abs=120)
    assert counts["test"] == pytest.approx(2000, abs=160)


def test_the_side_of_a_title_is_fixed_for_ever() -> None:
    sides = [split_of(title, 0.3, 0.3) for title in ("Apple Pie", "Leek Soup", "Toast", "Crème brûlée", "味噌汁", "!")]
    assert sides == ["test", "test", "train", "train", "validation", "validation"]


def test_fractions_that_leave_no_training_are_refused() -> None:
    with pytest.raises(DataError, match="less than 1"):
        split_of("Toast", 0.5, 0.5)
