from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe_exp.metrics.bootstrap import (
    Summed,
    bleu_of,
    bootstrap,
    mean_of,
    paired_bootstrap,
    ratio_of,
)
from recipe_exp.metrics.text import bleu

ORDERS = st.lists(st.integers(0, 60), min_size=4, max_size=4)


@st.composite
def statistics(draw: st.DrawFn) -> tuple[int, ...]:
    total = draw(ORDERS)
    correct = [draw(st.integers(0, count)) for count in total]
    return (*correct, *total, total[0], draw(st.integers(0, 80)))


def made_up(count: int, seed: int, shift: float = 0.0) -> dict[str, Summed]:
    random = np.random.default_rng(seed)
    metrics = {f"m{number}": mean_of(list(random.normal(shift, 1.0, count))) for number in range(14)}
    rows = random.integers(5, 40, (count, 4))
    metrics["bleu"] = bleu_of([(9, 7, 4, 2, *row, row[0], 30) for row in rows.tolist()])
    return metrics


@settings(deadline=None)
@given(st.lists(statistics(), min_size=1, max_size=12))
def test_bleu_from_sums_is_that_of_sacrebleu(examples: list[tuple[int, ...]]) -> None:
    whole = bleu([sum(column) for column in zip(*examples, strict=True)])
    assert bleu_of(examples).value() == pytest.approx(whole, rel=1e-12, abs=1e-12)


def test_a_resample_is_scored_as_the_examples_that_it_drew() -> None:
    random = np.random.default_rng(5)
    values = random.normal(size=7).tolist()
    interval = bootstrap({"mean": mean_of(values)}, num_resamples=400, seed=3)["mean"]
    drawn = np.random.default_rng(3).integers(0, 7, (400, 7))
    expected = np.quantile(np.asarray(values)[drawn].mean(axis=1), [0.025, 0.975])
    assert [interval.low, interval.high] == pytest.approx(expected.tolist())
    assert interval.value == pytest.approx(float(np.mean(values)))


def test_intervals_hold_the_true_mean_as_often_as_they_say() -> None:
    random = np.random.default_rng(1)
    held = 0
    for trial in range(200):
        interval = bootstrap({"m": mean_of(list(random.exponential(1.0, 200)))}, num_resamples=300, seed=trial)["m"]
        held += interval.low <= 1.0 <= interval.high
    assert 0.89 <= held / 200 <= 0.99


def test_examples_without_a_value_are_left_out() -> None:
    metric = mean_of([1.0, None, 0.0, float("nan"), 1.0])
    assert metric.value() == pytest.approx(2 / 3)
    nothing = bootstrap({"m": mean_of([None, None])}, num_resamples=20)["m"]
    assert np.isnan([nothing.value, nothing.low, nothing.high]).all()


def test_ratio_weighs_examples_by_their_denominator() -> None:
    assert ratio_of([1, 0], [1, 9]).value() == pytest.approx(0.1)


def test_pairing_finds_a_difference_that_single_intervals_hide() -> None:
    random = np.random.default_rng(2)
    hardness = random.normal(0, 1, 300)
    one = {"m": mean_of(list(hardness + 0.1 + random.normal(0, 0.05, 300)))}
    other = {"m": mean_of(list(hardness))}
    alone, apart = bootstrap(one)["m"], bootstrap(other)["m"]
    difference = paired_bootstrap(one, other)["m"]
    assert alone.low < apart.high
    assert difference.is_real
    assert difference.value == pytest.approx(0.1, abs=0.02)
    assert difference.p_value < 0.01


def test_a_system_does_not_differ_from_itself() -> None:
    metrics = made_up(50, seed=4)
    for difference in paired_bootstrap(metrics, metrics).values():
        assert (difference.value, difference.low, difference.high, difference.p_value) == (0, 0, 0, 1)
        assert not difference.is_real


def test_only_metrics_of_both_are_compared() -> None:
    assert list(paired_bootstrap({"a": mean_of([1.0]), "b": mean_of([1.0])}, {"b": mean_of([0.0])})) == ["b"]


def test_false_alarms_are_as_rare_as_they_should_be() -> None:
    random = np.random.default_rng(6)
    alarms = sum(
        paired_bootstrap(
            {"m": mean_of(list(random.normal(size=100)))},
            {"m": mean_of(list(random.normal(size=100)))},
            num_resamples=300,
            seed=trial,
        )["m"].is_real
        for trial in range(200)
    )
    assert alarms / 200 <= 0.11


def test_the_seed_decides() -> None:
    metrics = made_up(40, seed=7)
    assert bootstrap(metrics, seed=1) == bootstrap(metrics, seed=1)
    assert bootstrap(metrics, seed=1) != bootstrap(metrics, seed=2)


def test_draws_do_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = made_up(40, seed=7)
    whole = bootstrap(metrics, num_resamples=100)
    monkeypatch.setattr("recipe_exp.metrics.bootstrap._CHUNK_WEIGHTS", 120)
    chunked = bootstrap(metrics, num_resamples=100)
    for name, interval in whole.items():
        assert chunked[name].low == pytest.approx(interval.low, rel=1e-12)


@pytest.mark.parametrize("metrics", [{"a": mean_of([])}, {"a": mean_of([1.0]), "b": mean_of([1.0, 2.0])}])
def test_metrics_of_other_examples_are_refused(metrics: dict[str, Summed]) -> None:
    with pytest.raises(ValueError, match="same examples"):
        bootstrap(metrics)


def test_a_thousand_resamples_of_all_metrics_take_no_time() -> None:
    one, other = made_up(500, seed=8), made_up(500, seed=9)
    start = time.process_time()
    paired_bootstrap(one, other)
    assert time.process_time() - start < 3
