"""How sure a metric of a few hundred examples is: percentile bootstrap (Efron, 1979), alone and paired.

A metric is given by what it sums over the examples (`Summed`): a mean sums values, corpus BLEU sums counts of n-grams.
So a resample is a row of weights, all resamples of all metrics are one product of matrices, and nothing is scored
twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from recipe_exp.metrics.compute import MetricResult
from recipe_exp.metrics.metric import mean
from recipe_exp.metrics.registry import METRICS
from recipe_exp.metrics.text import BLEU_ORDER, bleu

Floats: TypeAlias = npt.NDArray[np.float64]

NUM_RESAMPLES = 1000
CONFIDENCE = 0.95
_CHUNK_WEIGHTS = 4_000_000
_TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True)
class Summed:
    """A metric of a set of examples that follows from sums over them.

    Attributes:
        rows: what each example adds to the sums, (num_examples, num_sums).
        finish: the metric from sums, (..., num_sums) -> (...); NaN where it is not defined.
    """

    rows: Floats
    finish: Callable[[Floats], Floats]

    def value(self) -> float:
        """Returns the metric of all examples."""
        return float(self.finish(self.rows.sum(axis=0)))


@dataclass(frozen=True)
class Interval:
    """A metric and its percentile interval.

    Attributes:
        value: of the examples themselves.
        low: lower end of the interval; NaN if no resample defines the metric.
        high: upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """By how much one system is above another on the same examples.

    Attributes:
        value: metric of the one minus metric of the other.
        low: lower end of the interval of the difference; NaN if no resample defines it.
        high: upper end.
        p_value: two-sided; how often resamples are on the other side of 0 or on it, twice the rarer side, at most 1.
    """

    value: float
    low: float
    high: float
    p_value: float

    @property
    def is_real(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


def mean_of(values: Sequence[float | None]) -> Summed:
    """Returns the mean of the values that there are; None and NaN are examples that the metric says nothing about."""
    array = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    return ratio_of(np.nan_to_num(array), ~np.isnan(array))


def ratio_of(numerators: npt.ArrayLike, denominators: npt.ArrayLike) -> Summed:
    """Returns the sum of the numerators divided by that of the denominators; each (num_examples,)."""
    rows = np.stack([np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)], axis=1)
    return Summed(rows, _ratio)


def bleu_of(statistics: Sequence[Sequence[float]]) -> Summed:
    """Returns corpus BLEU in [0, 100] of examples by the `bleu_statistics` of each; equal to sacreBLEU's default."""
    return Summed(np.array(statistics, dtype=np.float64).reshape(len(statistics), 2 * BLEU_ORDER + 2), _bleu)


def summed_metrics(result: MetricResult) -> dict[str, Summed]:
    """Returns every metric of a result that follows from its examples one by one, as `bootstrap` takes it."""
    return {name: _summed(name, result.statistics(name)) for name in result.resampled_names}


def bootstrap(
    metrics: Mapping[str, Summed],
    *,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[str, Interval]:
    """Returns each metric with its percentile interval over resampled examples.

    Args:
        metrics: of the same examples, at least one.
        num_resamples: sets of as many examples, drawn with replacement.
        confidence: share of the resamples that the interval holds.
        seed: of the draws; the same seed and number of examples draw the same ones.

    Raises:
        ValueError: if the metrics are of different numbers of examples, or of none.
    """
    resampled = _resample(list(metrics.values()), num_resamples, seed)
    ends = (_ends(values, confidence) for values in resampled)
    return {
        name: Interval(metric.value(), low, high)
        for (name, metric), (low, high) in zip(metrics.items(), ends, strict=True)
    }


def paired_bootstrap(
    one: Mapping[str, Summed],
    other: Mapping[str, Summed],
    *,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[str, Difference]:
    """Returns `one` minus `other` for each metric that both have, over the same resampled examples (Koehn, 2004).

    Args:
        one: metrics of a system.
        other: of another system on the same examples in the same order.
        num_resamples: sets of as many examples, drawn with replacement.
        confidence: share of the resamples that the interval holds.
        seed: of the draws.

    Raises:
        ValueError: if there are different numbers of examples, or none.
    """
    names = [name for name in one if name in other]
    resampled = _resample([system[name] for system in (one, other) for name in names], num_resamples, seed)
    differences = resampled[: len(names)] - resampled[len(names) :]
    found = {}
    for name, values in zip(names, differences, strict=True):
        low, high = _ends(values, confidence)
        found[name] = Difference(one[name].value() - other[name].value(), low, high, _p_value(values))
    return found


def _resample(metrics: Sequence[Summed], num_resamples: int, seed: int) -> Floats:
    """Returns each metric of each resample, (num_metrics, num_resamples)."""
    counts = {len(metric.rows) for metric in metrics}
    if len(counts) > 1 or 0 in counts:
        raise ValueError(f"metrics of {sorted(counts)} examples; pass metrics of the same examples, at least one")
    if not metrics:
        return np.empty((0, num_resamples))
    rows = np.concatenate([metric.rows for metric in metrics], axis=1)
    sums = np.concatenate([weights @ rows for weights in _weights(counts.pop(), num_resamples, seed)])
    bounds = np.cumsum([metric.rows.shape[1] for metric in metrics])[:-1]
    parts = np.split(sums, bounds, axis=1)
    return np.stack([metric.finish(part) for metric, part in zip(metrics, parts, strict=True)])


def _weights(num_examples: int, num_resamples: int, seed: int) -> Iterator[Floats]:
    """Yields how often each resample draws each example, (some resamples, num_examples), in bounded memory."""
    random = np.random.default_rng(seed)
    size = max(1, _CHUNK_WEIGHTS // num_examples)
    for start in range(0, num_resamples, size):
        num_rows = min(size, num_resamples - start)
        drawn = random.integers(0, num_examples, (num_rows, num_examples))
        drawn += np.arange(num_rows)[:, None] * num_examples
        counts = np.bincount(drawn.ravel(), minlength=num_rows * num_examples)
        yield counts.reshape(num_rows, num_examples).astype(np.float64)


def _ends(values: Floats, confidence: float) -> tuple[float, float]:
    defined = values[~np.isnan(values)]
    if len(defined) == 0:
        return float("nan"), float("nan")
    outside = (1 - confidence) / 2
    low, high = np.quantile(defined, [outside, 1 - outside])
    return float(low), float(high)


def _p_value(differences: Floats) -> float:
    """One is added to both counts (Davison and Hinkley, 1997), so that no finite number of draws claims certainty."""
    defined = differences[~np.isnan(differences)]
    rarer = min(int((defined <= 0).sum()), int((defined >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (len(defined) + 1))


def _summed(name: str, rows: Sequence[Sequence[float]]) -> Summed:
    value = METRICS[name].value
    if value is bleu:
        return bleu_of(rows)
    array = np.array(rows, dtype=np.float64)
    if value is mean:
        return Summed(array, _ratio)
    return Summed(array, lambda sums: np.apply_along_axis(lambda row: np.float64(value(row.tolist())), -1, sums))


def _ratio(sums: Floats) -> Floats:
    denominators = sums[..., 1]
    return np.where(denominators != 0, sums[..., 0] / np.where(denominators != 0, denominators, 1.0), np.nan)


def _bleu(sums: Floats) -> Floats:
    """Corpus BLEU (Papineni et al., 2002) with sacreBLEU's `exp` smoothing, over the last axis of `bleu_of`."""
    correct, total = sums[..., :BLEU_ORDER], sums[..., BLEU_ORDER : 2 * BLEU_ORDER]
    prediction_length, reference_length = sums[..., -2], sums[..., -1]
    # Each order without a match counts as half of the smallest share that the one before it counted.
    halvings = 2.0 ** np.cumsum(correct == 0, axis=-1)
    matches = np.where(correct == 0, 1 / halvings, correct)
    logs = np.log(np.maximum(matches, _TINY)) - np.log(np.maximum(total, 1.0))
    # Without a token there is no n-gram either, and the whole is 0.
    brevity = np.exp(np.minimum(1 - reference_length / np.maximum(prediction_length, 1.0), 0.0))
    defined = (total > 0).all(axis=-1) & (correct > 0).any(axis=-1)
    return np.where(defined, 100 * brevity * np.exp(logs.mean(axis=-1)), 0.0)
