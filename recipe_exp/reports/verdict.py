"""Which of several runs is the best, and whether that is more than chance: a pure function of their summaries."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, variance
from typing import Any

from recipe_exp.config.evaluation import LOWER_IS_BETTER
from recipe_exp.config.messages import show_value
from recipe_exp.config.relevance import short_names
from recipe_exp.metrics.bootstrap import Difference, Interval, bootstrap, paired_bootstrap
from recipe_exp.reports.axes import Axis, axis_of, next_value
from recipe_exp.reports.run_summary import EVALUATION, RunSummary

FINISHED = frozenset({"finished", "done"})
_SEED = "seed"
_NOISE_FACTOR = 1.96 * math.sqrt(2)
_MIN_PAIRED = 5
MAX_NAMED_KEYS = 3


@dataclass(frozen=True)
class Ranked:
    """A run in its place.

    Attributes:
        run: the run.
        label: what tells it from the others.
        value: its best value of the metric.
        interval: of that over the evaluated recipes; None without their scores.
        difference: its value minus that of the best run, over the recipes that both were evaluated on; None for the
            best run itself, and where too few recipes or no scores are common.
    """

    run: RunSummary
    label: str
    value: float
    interval: Interval | None = None
    difference: Difference | None = None


@dataclass(frozen=True)
class Edge:
    """A swept key whose best value is the first or the last that was tried.

    Attributes:
        key: dotted.
        value: the best one.
        values: those that were tried, in order.
        suggestion: the values to try next.
    """

    key: str
    value: float
    values: tuple[float, ...]
    suggestion: tuple[float, ...]


@dataclass(frozen=True)
class Noise:
    """How far runs lie apart that differ in their seed alone.

    Attributes:
        deviation: standard deviation, pooled over the groups (the square root of the mean variance).
        groups: (label, mean value, number of seeds) of each group with more than one, the best first.
    """

    deviation: float
    groups: tuple[tuple[str, float, int], ...]

    @property
    def threshold(self) -> float:
        """What two runs that differ in their seed alone differ by in one of twenty cases, or more."""
        return _NOISE_FACTOR * self.deviation


@dataclass(frozen=True)
class Verdict:
    """What comes of comparing runs.

    Attributes:
        metric: that ranks, with `eval/`; None if no run was evaluated.
        ranked: the best first.
        unranked: the others with the reason.
        axes: of the keys in which the runs differ, or that were swept.
        edges: where the search should go on.
        noise: of repeated seeds; None if none was repeated.
        num_examples: recipes that the best run's interval is over.
        warnings: why numbers may not be comparable.
    """

    metric: str | None
    ranked: tuple[Ranked, ...]
    unranked: tuple[tuple[RunSummary, str], ...]
    axes: Mapping[str, Axis]
    edges: tuple[Edge, ...] = ()
    noise: Noise | None = None
    num_examples: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def best(self) -> Ranked | None:
        """The best run."""
        return self.ranked[0] if self.ranked else None

    def is_real(self, each: Ranked) -> bool:
        """Whether a run is behind the best by more than the choice of recipes and, where known, the seed explains."""
        if each.difference is None or not each.difference.is_real:
            return False
        return self.noise is None or abs(each.value - self.ranked[0].value) > self.noise.threshold

    @property
    def runs(self) -> list[RunSummary]:
        """All runs, in the order of the ranking."""
        return [each.run for each in self.ranked] + [run for run, _ in self.unranked]

    @property
    def is_lower_better(self) -> bool:
        """Whether the best value is the smallest."""
        return self.metric in LOWER_IS_BETTER


def judge(runs: Sequence[RunSummary], swept: Sequence[str] | None = None) -> Verdict:
    """Returns the verdict on runs.

    Only runs that have finished are ranked, unless none has. Intervals and differences are percentile bootstraps over
    the evaluated recipes, each pair for itself, at the step at which each run was best.

    Args:
        runs: to compare.
        swept: the keys in whose values they were made to differ; None finds those that change numbers and differ.
    """
    # A seed is no choice, so it stands behind those that are.
    keys = sorted(swept if swept is not None else differing_keys(runs), key=lambda key: key == _SEED)
    metric = _metric_of(runs)
    candidates, unranked = _candidates(runs, metric)
    axes = {key: axis_of(key, [value_of(run, key) for run in candidates or runs]) for key in keys}
    labels = labels_of(runs, keys)
    ranked = _ranked(candidates, metric, {id(run): label for run, label in zip(runs, labels, strict=True)})
    best = ranked[0] if ranked else None
    return Verdict(
        metric=metric,
        ranked=tuple(ranked),
        unranked=tuple(unranked),
        axes=axes,
        edges=_edges(ranked, axes) if best else (),
        noise=_noise(ranked, keys, is_lower_better=metric in LOWER_IS_BETTER),
        num_examples=_num_examples(best, metric),
        warnings=tuple(_warnings(ranked, metric)),
    )


def differing_keys(runs: Sequence[RunSummary]) -> list[str]:
    """Returns the keys that change numbers in which not all runs agree; a key that a run lacks differs."""
    all_keys = [run.keys for run in runs if run.settings]
    names = dict.fromkeys(key for keys in all_keys for key in keys)
    return [name for name in names if any(keys.get(name, ...) != all_keys[0].get(name, ...) for keys in all_keys)]


def value_of(run: RunSummary, key: str) -> Any:
    """Returns a run's value of a key, that of a group as it was chosen; None if it has none."""
    return run.settings[key] if key in run.settings else run.varying.get(key)


def labels_of(runs: Sequence[RunSummary], keys: Sequence[str]) -> list[str]:
    """Returns what tells each run from the others: the few keys that differ, else its name; never the same twice."""
    names = short_names(keys)
    by_keys = [", ".join(f"{names[key]}={show_value(value_of(run, key))}" for key in keys) for run in runs]
    labels = by_keys if 0 < len(keys) <= MAX_NAMED_KEYS else [run.name for run in runs]
    count = Counter(labels)
    return [
        f"{label} ({run.run_id})" if count[label] > 1 and run.run_id else label
        for label, run in zip(labels, runs, strict=True)
    ]


def is_better(value: float, other: float, metric: str | None) -> bool:
    """Returns whether a value of a metric is better than another."""
    return value < other if metric in LOWER_IS_BETTER else value > other


def _metric_of(runs: Sequence[RunSummary]) -> str | None:
    metrics = Counter(run.best.metric for run in runs if run.best is not None)
    return metrics.most_common(1)[0][0] if metrics else None


def _candidates(
    runs: Sequence[RunSummary], metric: str | None
) -> tuple[list[RunSummary], list[tuple[RunSummary, str]]]:
    any_finished = any(run.status in FINISHED and run.best is not None for run in runs)
    candidates, unranked = [], []
    for run in runs:
        reason = _why_unranked(run, metric, must_finish=any_finished)
        if reason is None:
            candidates.append(run)
        else:
            unranked.append((run, reason))
    return candidates, unranked


def _why_unranked(run: RunSummary, metric: str | None, *, must_finish: bool) -> str | None:
    if run.status not in FINISHED and (must_finish or run.best is None):
        where = f" at step {run.step:,}" if run.step else ""
        return f"{run.status}{where}{f': {run.reason}' if run.reason else ''}"
    if run.best is None:
        return "was not evaluated"
    if run.best.metric != metric:
        return f"was judged by {run.best.metric}"
    return None if math.isfinite(run.best.value) else f"{metric} is {run.best.value}"


def _ranked(runs: Sequence[RunSummary], metric: str | None, labels: Mapping[int, str]) -> list[Ranked]:
    sign = 1.0 if metric in LOWER_IS_BETTER else -1.0
    ordered = sorted(runs, key=lambda run: sign * _best_value(run))
    return [
        Ranked(
            run=run,
            label=labels[id(run)],
            value=_best_value(run),
            interval=_interval(run, metric),
            difference=_difference(run, ordered[0], metric) if run is not ordered[0] else None,
        )
        for run in ordered
    ]


def _best_value(run: RunSummary) -> float:
    assert run.best is not None
    return run.best.value


def _interval(run: RunSummary, metric: str | None) -> Interval | None:
    name = str(metric).removeprefix(EVALUATION)
    if run.scores is None or len(run.scores.examples_of(name)) < _MIN_PAIRED:
        return None
    summed = run.scores.summed(name, range(len(run.scores.examples_of(name))))
    return bootstrap({name: summed})[name] if summed is not None else None


def _difference(run: RunSummary, best: RunSummary, metric: str | None) -> Difference | None:
    """Over the recipes that both were evaluated on."""
    name = str(metric).removeprefix(EVALUATION)
    if run.scores is None or best.scores is None:
        return None
    here, there = (_places(each.scores.examples_of(name)) for each in (run, best) if each.scores is not None)
    common = [key for key in there if key in here]
    if len(common) < _MIN_PAIRED:
        return None
    one = run.scores.summed(name, [here[key] for key in common])
    other = best.scores.summed(name, [there[key] for key in common])
    return paired_bootstrap({name: one}, {name: other})[name] if one is not None and other is not None else None


def _places(ids: Sequence[str]) -> dict[tuple[str, int], int]:
    """Where each example stands; one that comes twice is paired with its own second time."""
    seen: Counter[str] = Counter()
    places = {}
    for index, one in enumerate(ids):
        places[one, seen[one]] = index
        seen[one] += 1
    return places


def _num_examples(best: Ranked | None, metric: str | None) -> int:
    if best is None or best.interval is None or best.run.scores is None:
        return 0
    return len(best.run.scores.examples_of(str(metric).removeprefix(EVALUATION)))


def _edges(ranked: Sequence[Ranked], axes: Mapping[str, Axis]) -> tuple[Edge, ...]:
    found = []
    for key, axis in axes.items():
        tried = sorted({axis.position(value_of(each.run, key)) for each in ranked})
        best = axis.position(value_of(ranked[0].run, key))
        if (
            not axis.is_numeric
            or key.rpartition(".")[2] == _SEED
            or len(tried) < 2
            or best not in (tried[0], tried[-1])
        ):
            continue
        suggestion = next_value(tried, upward=best == tried[-1], is_log=axis.is_log, is_whole=axis.is_whole)
        if suggestion:
            found.append(Edge(key, best, tuple(tried), suggestion))
    return tuple(found)


def _noise(ranked: Sequence[Ranked], keys: Sequence[str], *, is_lower_better: bool) -> Noise | None:
    """Groups the runs that differ in their seed alone."""
    if _SEED not in keys:
        return None
    others = [key for key in keys if key != _SEED]
    groups: dict[str, list[Ranked]] = {}
    for each in ranked:
        groups.setdefault(repr([value_of(each.run, key) for key in others]), []).append(each)
    repeated = [group for group in groups.values() if len(group) > 1]
    if not repeated:
        return None
    names = short_names(others)
    described = []
    for group in repeated:
        shown = ", ".join(f"{names[key]}={show_value(value_of(group[0].run, key))}" for key in others)
        described.append((shown or "all runs", mean(each.value for each in group), len(group)))
    described.sort(key=lambda group: group[1], reverse=not is_lower_better)
    deviation = math.sqrt(mean(variance([each.value for each in group]) for group in repeated))
    return Noise(deviation, tuple(described))


def _warnings(ranked: Sequence[Ranked], metric: str | None) -> list[str]:
    records = [each.run.record for each in ranked]
    tokenizers = {(record.get("data") or {}).get("tokenizer") for record in records} - {None}
    warnings = []
    if metric in LOWER_IS_BETTER and len(tokenizers) > 1:
        warnings.append(f"the runs have different tokenizers, and {metric} is a mean over tokens: it does not compare")
    ids = {each.run.scores.examples_of(str(metric).removeprefix(EVALUATION)) for each in ranked if each.run.scores}
    if len(ids) > 1:
        warnings.append("the runs were evaluated on different recipes; differences are over those that both have")
    return warnings
