"""The report of an evaluation: what a model is worth, beside what costs nothing, and what it really writes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from recipe_exp.metrics import METRICS, MetricAccumulator, MetricResult, Reading
from recipe_exp.metrics.bootstrap import Difference, Interval, bootstrap, paired_bootstrap, summed_metrics
from recipe_exp.metrics.predictions import Prediction
from recipe_exp.reports.faults import mark_faults
from recipe_exp.reports.html import as_html
from recipe_exp.reports.page import (
    Block,
    Chart,
    Charts,
    Curve,
    Curves,
    Figure,
    Figures,
    MarkedText,
    MarkedTexts,
    Page,
    Range,
    Ranges,
    Section,
    Table,
    Track,
    count_text,
)

RANKED_BY = "chrf"
NUM_SHOWN_TEXTS = 10
_HISTOGRAM_BINS = 12
_MIN_SLICE = 5
_HEADLINES = ("loss", "bleu", "rougeL", "ingredient_coherence", "well_formed")
_CURVES = (
    "bleu",
    "chrf",
    "rougeL",
    "ingredient_coherence",
    "instruction_quality",
    "completeness",
    "format_correctness",
)
_HISTOGRAMS = ("chrf", "rougeL", "ingredient_coherence", "instruction_quality", "repetition", "prompt_adherence")
_SLICED = ("bleu", "chrf", "ingredient_coherence", "instruction_quality")
_COMPARED = ("bleu", "chrf", "rougeL", "ingredient_coherence", "instruction_quality", "completeness", "well_formed")
# Near relatives of what is shown; "Every number" has them too.
_FOLDED = re.compile(r"rouge(1|2|Lsum)(_instructions)?|\w+ratio_instructions")
_NOTES = {"higher": "higher is better", "lower": "lower is better", "nearest to 1": "best at 1"}

Series = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class EvaluationReport:
    """What a report is made of.

    Attributes:
        name: of the model.
        facts: what it is and what it was evaluated on, by label.
        predictions: what it wrote, at least one.
        result: what that scored.
        anchors: what costs nothing, or other models, on the same examples, by name.
        others: other runs on the same examples, by name.
        history: every logged metric over steps; empty outside of a run.
        step: of the weights that wrote the predictions; None where that is unknown.
    """

    name: str
    facts: Mapping[str, str]
    predictions: Sequence[Prediction]
    result: MetricResult
    anchors: Mapping[str, MetricResult] = field(default_factory=dict)
    others: Mapping[str, MetricResult] = field(default_factory=dict)
    history: Mapping[str, Series] = field(default_factory=dict)
    step: int | None = None


def render_evaluation(report: EvaluationReport) -> str:
    """Returns the report as one HTML file."""
    return as_html(evaluation_page(report))


def evaluation_page(report: EvaluationReport) -> Page:
    """Returns the report as a page."""
    intervals = bootstrap(summed_metrics(report.result))
    sections = [
        _overview(report, intervals),
        _against_anchors(report, intervals),
        *([_beside_others(report)] if report.others else []),
        *([_history(report)] if any(len(points) > 1 for points in report.history.values()) else []),
        _distributions(report),
        *_slices(report),
        _texts(report),
    ]
    return Page(f"Evaluation of {report.name}", _lead(report, intervals), tuple(sections))


def interval_text(interval: Interval) -> str:
    """Returns a value with its interval as it is read: `0.412 (0.390 to 0.433)`."""
    if math.isnan(interval.low):
        return value_text(interval.value)
    return f"{value_text(interval.value)} ({value_text(interval.low)} to {value_text(interval.high)})"


def value_text(value: float) -> str:
    """Returns a metric as it is read: three decimals, fewer of larger numbers."""
    if math.isnan(value):
        return "none"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 1e5 else f"{value:.3g}"


def _lead(report: EvaluationReport, intervals: Mapping[str, Interval]) -> str:
    count = len(report.predictions)
    sentences = [f"{count_text(count)} held-out recipes, asked for and scored."]
    if RANKED_BY in intervals and report.anchors:
        differences = {
            name: paired_bootstrap(summed_metrics(report.result), summed_metrics(result))[RANKED_BY]
            for name, result in report.anchors.items()
        }
        better = [name for name, difference in differences.items() if difference.low > 0]
        others = [name for name in differences if name not in better]
        metric = "chrF"
        if better:
            sentences.append(f"By {metric} it is better than {_listed(better)}.")
        if others:
            sentences.append(f"By {metric} it is not shown to be better than {_listed(others)}.")
    return " ".join(sentences)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _overview(report: EvaluationReport, intervals: Mapping[str, Interval]) -> Section:
    figures = tuple(
        Figure(value_text(report.result[name]), name, _explained(name, intervals))
        for name in _HEADLINES
        if name in report.result.scores
    )
    facts = Table(("", ""), tuple(report.facts.items()), num_texts=2)
    return Section(
        "At a glance",
        "An interval holds 95 % of what other draws of as many recipes would give; a difference inside it may be luck.",
        (Figures(figures), facts),
    )


def _explained(name: str, intervals: Mapping[str, Interval]) -> str:
    interval = intervals.get(name)
    if interval is None or math.isnan(interval.low):
        return _NOTES[METRICS[name].direction]
    return f"{value_text(interval.low)} to {value_text(interval.high)}"


def _against_anchors(report: EvaluationReport, intervals: Mapping[str, Interval]) -> Section:
    names = [name for name in report.result.scores if name in intervals and not _FOLDED.fullmatch(name)]
    ranges = tuple(filter(None, (_range(name, report, intervals[name]) for name in names)))
    blocks: list[Block] = [Ranges("this model", tuple(report.anchors), ranges)]
    columns = ("metric", "this model", *report.anchors)
    rows = tuple(
        (
            name,
            interval_text(intervals[name]) if name in intervals else value_text(value),
            *(value_text(anchor.scores[name]) if name in anchor.scores else "" for anchor in report.anchors.values()),
        )
        for name, value in report.result.scores.items()
    )
    blocks.append(Table(columns, rows, title="Every number", is_folded=True))
    return Section(
        "Metrics against anchors",
        "What needs no model, scored on the same examples: a training recipe drawn at random, the one whose title is "
        "nearest, and the prompt handed back. A metric on which those come close says little of this model.",
        tuple(blocks),
    )


def _range(name: str, report: EvaluationReport, interval: Interval) -> Range | None:
    """Returns the metric on its scale, one that has no end on the scale of what is there."""
    metric = METRICS[name]
    values = [anchor.scores.get(name) for anchor in report.anchors.values()]
    seen = [value for value in (*values, interval.value, interval.high) if value is not None and math.isfinite(value)]
    if not math.isfinite(interval.value) or math.isnan(interval.low):
        return None
    low, high = metric.low, metric.high if math.isfinite(metric.high) else max([*seen, 1.0])

    def share(value: float | None) -> float | None:
        return None if value is None or not math.isfinite(value) else (value - low) / (high - low)

    ends = [share(value) or 0.0 for value in (interval.value, interval.low, interval.high)]
    return Range(
        name, _NOTES[metric.direction], interval_text(interval), ends[0], ends[1], ends[2], tuple(map(share, values))
    )


def _beside_others(report: EvaluationReport) -> Section:
    """Each difference over the same resampled examples, so that what is hard for both cancels out."""
    own = summed_metrics(report.result)
    own = {name: own[name] for name in _COMPARED if name in own}
    found = {other: paired_bootstrap(own, summed_metrics(result)) for other, result in report.others.items()}
    rows = tuple(
        (name, *(_difference_text(differences[name]) if name in differences else "" for differences in found.values()))
        for name in own
    )
    return Section(
        "Beside other runs",
        "This model minus the other one, on the same examples, with the interval of the difference. "
        "● marks a difference that is real: its interval leaves out 0.",
        (Table(("metric", *found), rows),),
    )


def _difference_text(difference: Difference) -> str:
    if math.isnan(difference.low):
        return "none"
    shown = f"{_signed(difference.value)} ({_signed(difference.low)} to {_signed(difference.high)})"
    return f"● {shown}" if difference.is_real else shown


def _signed(value: float) -> str:
    return f"{value:+.3f}" if abs(value) < 10 else f"{value:+.1f}"


def _history(report: EvaluationReport) -> Section:
    losses = [
        Track(name, tuple(report.history[key]))
        for name, key in (("training", "train/loss"), ("held out", "eval/loss"))
        if report.history.get(key)
    ]
    curves = [Curve("Loss", "nats a target token", tuple(losses))] if losses else []
    anchor = next((name for name in report.anchors if "nearest" in name), None)
    for name in _CURVES:
        points = tuple(report.history.get(f"eval/{name}", ()))
        if points:
            level = report.anchors[anchor].scores.get(name) if anchor is not None else None
            curves.append(
                Curve(name, _NOTES[METRICS[name].direction], (Track("this run", points),), level, anchor or "")
            )
    if rate := report.history.get("train/learning_rate"):
        curves.append(Curve("Learning rate", "", (Track("this run", tuple(rate)),)))
    told = f" The recipes below are those of step {report.step:,}." if report.step is not None else ""
    return Section(
        "Over the run", f"Every logged value over the steps of training.{told}", (Curves(tuple(curves), "step"),)
    )


def _distributions(report: EvaluationReport) -> Section:
    anchor = next((name for name in report.anchors if "nearest" in name), None)
    charts = []
    for name in _HISTOGRAMS:
        if name not in report.result.resampled_names:
            continue
        own = [value for value in report.result.per_example(name) if value is not None and math.isfinite(value)]
        other: list[float] = []
        if anchor is not None and name in report.anchors[anchor].resampled_names:
            found = report.anchors[anchor].per_example(name)
            other = [value for value in found if value is not None and math.isfinite(value)]
        charts.append(_histogram(name, own, other))
    return Section(
        "Recipe by recipe",
        "How many recipes score how much: a mean may stand for many fair ones, or for some perfect and some lost ones.",
        (Charts(tuple(charts), "this model", anchor or ""),),
    )


def _histogram(name: str, own: Sequence[float], other: Sequence[float]) -> Chart:
    high = METRICS[name].high
    bins = [0] * _HISTOGRAM_BINS, [0] * _HISTOGRAM_BINS
    for counts, values in zip(bins, (own, other), strict=True):
        for value in values:
            counts[min(int(value / high * _HISTOGRAM_BINS), _HISTOGRAM_BINS - 1)] += 1
    labels = tuple(value_text(high * number / _HISTOGRAM_BINS) for number in range(_HISTOGRAM_BINS))
    bars, dots = (
        tuple(count / max(len(values), 1) for count in counts)
        for counts, values in zip(bins, (own, other), strict=True)
    )
    return Chart(
        name, f"{_NOTES[METRICS[name].direction]}; each bar starts at its label", labels, bars, dots if other else ()
    )


def _slices(report: EvaluationReport) -> Iterator[Section]:
    tables = [
        table
        for title, key in (
            ("By length of the reference", _length_key(report.predictions)),
            ("By source", lambda prediction: prediction.source),
            ("By prompt", _prompt_kind),
        )
        if (table := _slice_table(title, report, key)) is not None
    ]
    if tables:
        yield Section(
            "Slices",
            f"The same metrics over parts of the examples, of {_MIN_SLICE} or more each, with their intervals.",
            tuple(tables),
        )


def _slice_table(title: str, report: EvaluationReport, key: Callable[[Prediction], str]) -> Table | None:
    members: dict[str, list[int]] = {}
    for index, prediction in enumerate(report.predictions):
        members.setdefault(key(prediction), []).append(index)
    large = {name: indices for name, indices in members.items() if name and len(indices) >= _MIN_SLICE}
    if len(large) < 2:
        return None
    names = [name for name in _SLICED if name in report.result.resampled_names]
    rows = []
    for name in sorted(large, key=lambda name: (_slice_order(name), name)):
        examples = tuple(report.result.examples[index] for index in large[name])
        intervals = bootstrap(summed_metrics(MetricAccumulator(examples).compute()))
        cells = (interval_text(intervals[metric]) if metric in intervals else "" for metric in names)
        rows.append((name, count_text(len(examples)), *cells))
    return Table(("", "recipes", *names), tuple(rows), title=title)


def _slice_order(name: str) -> int:
    return (
        ("short", "middle", "long").index(name.partition(",")[0]) if name.startswith(("short", "middle", "long")) else 0
    )


def _length_key(predictions: Sequence[Prediction]) -> Callable[[Prediction], str]:
    """Returns which third of the lengths a reference belongs to."""
    lengths = sorted(len(prediction.reference.split()) for prediction in predictions)
    first, second = lengths[len(lengths) // 3], lengths[2 * len(lengths) // 3]

    def third(prediction: Prediction) -> str:
        length = len(prediction.reference.split())
        if length < first:
            return f"short, under {first} words"
        return f"middle, {first} to {second} words" if length <= second else f"long, over {second} words"

    return third


def _prompt_kind(prediction: Prediction) -> str:
    if prediction.prompt_ingredients is None:
        return ""
    return "ingredients in the prompt" if prediction.prompt_ingredients else "no ingredients in the prompt"


def _texts(report: EvaluationReport) -> Section:
    scores = report.result.per_example(RANKED_BY)
    order = sorted(range(len(scores)), key=lambda index: (-(scores[index] or 0.0), index))
    middle = max((len(order) - NUM_SHOWN_TEXTS) // 2, 0)
    chosen = {
        "The best": order[:NUM_SHOWN_TEXTS],
        "Around the median": order[middle : middle + NUM_SHOWN_TEXTS],
        "The worst": order[::-1][:NUM_SHOWN_TEXTS],
    }
    shown: set[int] = set()
    blocks = []
    for title, indices in chosen.items():
        fresh = [index for index in indices if index not in shown]
        shown |= set(fresh)
        if fresh:
            blocks.append(MarkedTexts(title, tuple(_marked(report, index) for index in fresh)))
    return Section(
        "What it writes",
        f"Ranked by {RANKED_BY} against the reference, which says how near they are, not which is the better recipe. "
        "Marked: what a cook would stumble over.",
        tuple(blocks),
    )


def _marked(report: EvaluationReport, index: int) -> MarkedText:
    prediction = report.predictions[index]
    faults, parts = mark_faults(Reading(prediction.generated, prediction.prompt, prediction.prompt_ingredients or ()))
    names = [name for name in (RANKED_BY, "rougeL", "ingredient_coherence") if name in report.result.resampled_names]
    scores = {name: report.result.per_example(name)[index] for name in names}
    note = ", ".join(f"{name} {value_text(score)}" for name, score in scores.items() if score is not None)
    title = prediction.title or prediction.prompt[:80]
    return MarkedText(title, note, prediction.prompt, faults, parts, prediction.reference)
