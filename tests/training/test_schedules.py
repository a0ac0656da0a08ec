from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe_exp.config.training import (
    ConstantScheduleConfig,
    CosineRestartsScheduleConfig,
    CosineScheduleConfig,
    InverseSquareRootScheduleConfig,
    LinearScheduleConfig,
)
from recipe_exp.training.schedules import Schedule, build_schedule

PEAK = 0.02
LINEAR, COSINE, CONSTANT = LinearScheduleConfig(), CosineScheduleConfig(min_ratio=0.1), ConstantScheduleConfig()
RESTARTS, INVERSE = CosineRestartsScheduleConfig(num_cycles=3), InverseSquareRootScheduleConfig()
ALL = [
    LINEAR,
    COSINE,
    CosineScheduleConfig(),
    CONSTANT,
    RESTARTS,
    INVERSE,
    InverseSquareRootScheduleConfig(timescale=7),
]
FALLING = [LINEAR, COSINE, INVERSE]

kinds = st.sampled_from(ALL)
warmups = st.integers(0, 300)
totals = st.integers(1, 1000)


def build(config: Any, warmup_steps: int = 10, total_steps: int = 110) -> Schedule:
    return build_schedule(config, peak=PEAK, warmup_steps=warmup_steps, schedule_steps=total_steps)


@pytest.mark.parametrize("config", ALL, ids=lambda config: config.kind)
def test_the_warm_up_is_linear_and_wastes_no_step(config: Any) -> None:
    rate = build(config)
    assert [rate(step) for step in range(10)] == pytest.approx([PEAK * part / 10 for part in range(1, 11)])
    assert rate(0) > 0
    assert rate(10) == PEAK, "the first step of the decay is still at the peak"
    assert build(config, warmup_steps=0)(0) == PEAK


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LINEAR, {35: 0.75, 60: 0.5, 109: 0.01, 110: 0.0}),
        (COSINE, {35: 0.1 + 0.45 * (1 + math.sqrt(0.5)), 60: 0.55, 110: 0.1, 200: 0.1}),
        (CosineScheduleConfig(), {60: 0.5, 110: 0.0}),
        (CONSTANT, {60: 1.0, 110: 1.0, 10_000: 1.0}),
        (INVERSE, {20: math.sqrt(1 / 2), 40: 0.5, 100: math.sqrt(0.1)}),
        (InverseSquareRootScheduleConfig(timescale=30), {40: math.sqrt(1 / 2), 100: 0.5}),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_a_decay_follows_its_definition(config: Any, expected: dict[int, float]) -> None:
    rate = build(config)
    assert {step: rate(step) for step in expected} == pytest.approx(
        {step: PEAK * factor for step, factor in expected.items()}, abs=1e-12
    )


def test_restarts_go_back_to_the_peak_so_often() -> None:
    rate = build(RESTARTS, total_steps=100)
    rates = [rate(step) for step in range(10, 100)]
    assert [step for step in range(90) if rates[step] == PEAK] == [0, 30, 60]
    for start in (0, 30, 60):
        expected = [PEAK * 0.5 * (1 + math.cos(math.pi * step / 30)) for step in range(30)]
        assert rates[start : start + 30] == pytest.approx(expected)
    assert rate(100) == rate(1000) == 0.0


def test_the_inverse_square_root_without_a_warm_up_halves_after_three_steps() -> None:
    rate = build(INVERSE, warmup_steps=0)
    assert [rate(step) / PEAK for step in (0, 3, 8, 99)] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 10])


@given(kinds, warmups, totals, st.integers(0, 2000))
def test_a_rate_is_never_negative_and_never_above_the_peak(config: Any, warmup: int, total: int, step: int) -> None:
    assert 0.0 <= build(config, warmup, total)(step) <= PEAK


@given(kinds, warmups, totals)
def test_no_step_of_a_run_is_spent_at_zero(config: Any, warmup: int, total: int) -> None:
    rate = build(config, warmup, total)
    assert all(rate(step) > 0 for step in {0, warmup // 2, total // 2, total - 1} if step < total)


@given(st.sampled_from(FALLING), warmups, totals)
def test_it_rises_to_the_peak_and_falls_from_there(config: Any, warmup: int, total: int) -> None:
    rate = build(config, warmup, total)
    rates = [rate(step) for step in range(warmup + total)]
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
