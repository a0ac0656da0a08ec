"""Stochastic rounding: what it keeps on average, what it leaves alone, and that it can be repeated."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from recipe_exp.training.rounding import StochasticRounding

NUM_DRAWS = 40_000


def rounded(value: float, seed: int = 0) -> torch.Tensor:
    rounding = StochasticRounding()
    rounding.seed(seed)
    target = torch.empty(NUM_DRAWS, dtype=torch.bfloat16)
    rounding.write(target, torch.full((NUM_DRAWS,), value))
    return target.double()


@given(st.floats(2.0**-100, 2.0**100, width=32), st.booleans())
def test_a_value_becomes_one_of_its_neighbours_and_on_average_itself(size: float, is_negative: bool) -> None:
    value = float(torch.tensor(-size if is_negative else size, dtype=torch.float32))
    found = rounded(value)
    lower, upper = float(found.abs().min()), float(found.abs().max())
    assert lower <= abs(value) <= upper
    assert upper - lower <= abs(value) * 2**-7
    # Six standard errors of a draw between two neighbours.
    assert abs(float(found.mean()) - value) <= 6 * 0.5 * (upper - lower) / NUM_DRAWS**0.5


@given(st.floats(allow_nan=False, allow_infinity=False, width=16))
def test_what_bfloat16_holds_stays_exactly(value: float) -> None:
    exact = torch.tensor(value).bfloat16()
    target = torch.empty(64, dtype=torch.bfloat16)
    StochasticRounding().write(target, exact.float().expand(64).contiguous())
    assert torch.equal(target, exact.expand(64))


def test_rounding_to_nearest_would_lose_what_this_keeps() -> None:
    weight = torch.ones(1000, dtype=torch.bfloat16)
    nearest, rounding = weight.clone(), StochasticRounding()
    for step in range(100):
        rounding.seed(step)
        rounding.write(weight, weight.float() + 1e-4)
        nearest += 1e-4
    assert float(nearest.mean()) == 1.0
    assert abs(float(weight.float().mean()) - 1.01) < 1e-3


def test_fp32_is_copied() -> None:
    target, values = torch.empty(9), torch.randn(9)
    StochasticRounding().write(target, values)
    assert torch.equal(target, values)


def test_one_seed_gives_one_result() -> None:
    assert torch.equal(rounded(1.001, seed=3), rounded(1.001, seed=3))
    assert not torch.equal(rounded(1.001, seed=3), rounded(1.001, seed=4))
