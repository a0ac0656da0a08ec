from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from recipe_exp.reports.axes import axis_of, next_value


@pytest.mark.parametrize(
    ("key", "values", "is_numeric", "is_log"),
    [
        ("training.learning_rate", [1e-3, 2e-3], True, True),
        ("training.weight_decay", [0.0, 0.1], True, False),
        ("training.adapter.rank", [4, 8, 16, 32], True, True),
        ("training.num_epochs", [1, 2, 3], True, False),
        ("model.dropout", [0.0, 0.1], True, False),
        ("training.adapter.kind", ["none", "lora"], False, False),
        ("model.gradient_checkpointing", [True, False], False, False),
        ("training.max_steps", [None, 100], False, False),
        ("training", ["1e-3", "3e-3"], True, False),
    ],
)
def test_the_axis_fits_the_values(key: str, values: list[Any], is_numeric: bool, is_log: bool) -> None:
    axis = axis_of(key, values)
    assert (axis.is_numeric, axis.is_log) == (is_numeric, is_log)
    assert len({axis.position(value) for value in values}) == len(values)


@given(st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=5, unique=True), st.booleans(), st.booleans(), st.booleans())
def test_what_comes_next_lies_beyond_the_end(values: list[float], upward: bool, is_log: bool, is_whole: bool) -> None:
    tried = sorted(float(round(value)) for value in values) if is_whole else sorted(values)
    assume(len(set(tried)) == len(tried) and tried[0] > 0)
    following = next_value(tried, upward=upward, is_log=is_log, is_whole=is_whole)
    for value in following:
        assert value > 0
        assert value not in tried
        assert not is_whole or value.is_integer()


def test_what_comes_next_keeps_the_distance_or_the_ratio() -> None:
    assert next_value([1e-3, 1e-2], upward=True, is_log=True, is_whole=False) == (0.1, 1.0)
    assert next_value([1e-3, 1e-2], upward=False, is_log=True, is_whole=False) == (1e-5, 1e-4)
    assert next_value([1, 2, 3], upward=True, is_log=False, is_whole=True) == (4, 5)
    assert next_value([1, 2, 3], upward=False, is_log=False, is_whole=True) == ()
