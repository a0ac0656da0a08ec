from __future__ import annotations

from typing import Any

import pytest

from recipe_exp.config.compose import compose
from recipe_exp.config.interpolation import MAX_INTERPOLATIONS, find_unbounded, multiply
from recipe_exp.errors import ConfigError


def test_few_interpolations_are_fine() -> None:
    assert find_unbounded({"a": ["${b}"] * 5, "c": {"d": "${b} ${b}", "e": 3}}, ["run_name=${seed}"]) == []
    assert find_unbounded({"a": "\\${b}" * 100}, []) == []


def test_more_of_them_than_a_person_writes_are_refused_wherever_they_stand() -> None:
    data: dict[str, Any] = {"a": {"b": ["${c}"] * MAX_INTERPOLATIONS}}
    assert find_unbounded(data, []) == []
    (mistake,) = find_unbounded(data, ["run_name=${seed}"])
    assert mistake.startswith("${...}: over 20 interpolations")


@pytest.mark.parametrize("text", ["${oc.decode:'[1]'}", "${ oc.create:{a:1}}", "${${seed}:x}"])
def test_texts_are_not_read_as_configurations(text: str) -> None:
    assert find_unbounded({"a": [text]}, [])


def test_bombs_end_at_once() -> None:
    keys = ["tags=[aaaaaaaaaa]", *(f"run_name='{'${description}' * 50}'" for _ in range(3))]
    with pytest.raises(ConfigError, match="over 20 interpolations"):
        compose(keys)
    with pytest.raises(ConfigError, match="mul takes two numbers"):
        compose(["run_name=${mul:aaaaaaaaaa,1000000000000}"])


def test_mul_is_a_product_of_numbers() -> None:
    assert compose(["seed=${mul:2,21}"]).seed == multiply(2, 21) == 42
    assert multiply(0.5, 3) == 1.5
    for wrong in ("a", [1], True, None):
        with pytest.raises(ValueError, match="mul takes two numbers"):
            multiply(wrong, 3)
