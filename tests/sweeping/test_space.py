from __future__ import annotations

import math

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from recipe_exp.sweeping.space import Dimension, Space, space_of


def space(*lines: str) -> Space:
    return space_of(OverridesParser.create().parse_overrides(list(lines)))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a=interval(1,10)", Dimension("a", "float", 1.0, 10.0)),
        ("a=int(interval(1,10))", Dimension("a", "int", 1, 10)),
        ("a=tag(log,interval(1e-5,1e-3))", Dimension("a", "float", 1e-5, 1e-3, is_log=True)),
        ("a=tag(log,int(interval(1,64)))", Dimension("a", "int", 1, 64, is_log=True)),
        ("a=range(1,4)", Dimension("a", "ordered", values=("1", "2", "3"))),
        ("a=choice(4,8,16)", Dimension("a", "ordered", values=("4", "8", "16"))),
        ("a=1e-3,x", Dimension("a", "choice", values=("0.001", "x"))),
        ("a/b=x,y", Dimension("a/b", "choice", values=("x", "y"))),
    ],
)
def test_hydra_s_grammar_is_a_space(line: str, expected: Dimension) -> None:
    found = space("seed=3", line)
    assert found == Space(("seed=3",), (expected,))
    assert found.keys == [expected.key]


def test_corners_hold_every_value_and_both_ends() -> None:
    found = space("a=interval(1,2)", "b=x,y,z", "c=7")
    assert list(found.corners()) == [
        ["c=7", "a=1", "b=x"],
        ["c=7", "a=2", "b=x"],
        ["c=7", "a=1", "b=y"],
        ["c=7", "a=1", "b=z"],
    ]


@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(0, 30))
def test_more_draws_begin_with_the_same_ones(seed: int, count: int, more: int) -> None:
    found = space("a=tag(log,interval(1e-5,1e-3))", "b=int(interval(1,4))", "c=x,y")
    draws = found.draw(count, seed)
    assert found.draw(count + more, seed)[:count] == draws
    assert len({tuple(draw) for draw in draws}) == len(draws) == count
    for rate, number, word in draws:
        assert 1e-5 <= float(rate.removeprefix("a=")) <= 1e-3
        assert 1 <= int(number.removeprefix("b=")) <= 4
        assert word in ("c=x", "c=y")


def test_a_space_of_few_combinations_is_drawn_whole() -> None:
    draws = space("a=x,y", "b=1,2,3").draw(100, 0)
    assert len({tuple(draw) for draw in draws}) == len(draws) == 6


def test_a_logarithmic_interval_is_drawn_from_by_its_logarithm() -> None:
    draws = space("a=tag(log,interval(1e-6,1))").draw(400, 1)
    exponents = [math.log10(float(draw[0].removeprefix("a="))) for draw in draws]
    assert sum(exponents) / len(exponents) == pytest.approx(-3.0, abs=0.3)
    whole = [int(draw[0].removeprefix("a=")) for draw in space("a=int(interval(1,3))").draw(3, 1)]
    assert sorted(whole) == [1, 2, 3]
