"""A verdict as a page: the ranking, the plots that explain it, what failed, and how to go on."""

from __future__ import annotations

import math
from collections.abc import Sequence

from recipe_exp.config.relevance import short_names
from recipe_exp.reports.axes import Axis
from recipe_exp.reports.numbers import show_number, show_seconds
from recipe_exp.reports.page import Block, Code, Column, Line, Page, Parallel, Plot, Plots, Points, Section, Table
from recipe_exp.reports.verdict import Ranked, Verdict, value_of
from recipe_exp.reports.verdict_text import (
    cost,
    failures,
    findings,
    headline,
    show_difference,
    show_interval,
    show_reality,
    winning_command,
)

_MAX_CURVES = 8
_MAX_AXES = 8
_CURVES = ("train/loss",)


def verdict_page(verdict: Verdict, title: str) -> Page:
    """Returns the page.

    Args:
        verdict: what is shown.
        title: what was compared.
    """
    sections = [_decision(verdict), _ranking(verdict)]
    by_key = key_plots(verdict)
    if by_key:
        sections.append(
            Section(
                "What each parameter does",
                "One point for each run at its best step, with the 95 % interval over the evaluated recipes. Runs that "
                "differ in several parameters stand above each other where they share this one.",
                (Plots(tuple(by_key)),),
            )
        )
    curves = curve_plots(verdict)
    if curves:
        shown = f"the best {_MAX_CURVES} runs" if len(verdict.ranked) > _MAX_CURVES else "each run"
        sections.append(Section("Learning curves", f"Of {shown}, by step.", (Plots(tuple(curves), has_legend=True),)))
    return Page(title, f"{headline(verdict)[:1].upper()}{headline(verdict)[1:]}.", tuple(sections))


def figures(verdict: Verdict) -> dict[str, Plot | Parallel]:
    """Returns every plot of the page by a name that a file can have."""
    plots = [*key_plots(verdict), *curve_plots(verdict)]
    return {_file_name(plot.title): plot for plot in plots}


def key_plots(verdict: Verdict) -> list[Plot | Parallel]:
    """Returns the metric over each parameter, and parallel coordinates where there are several."""
    if verdict.best is None or len(verdict.ranked) < 2:
        return []
    names = short_names(verdict.axes)
    axes = dict(list(verdict.axes.items())[:_MAX_AXES])
    plots: list[Plot | Parallel] = [_key_plot(verdict, key, names[key], axis) for key, axis in axes.items()]
    return [*plots, _parallel(verdict, axes)] if len(axes) > 1 else plots


def curve_plots(verdict: Verdict) -> list[Plot]:
    """Returns the ranking metric and the training loss by step, the best runs first."""
    ranked = list(verdict.ranked[:_MAX_CURVES])
    plots = []
    for metric in dict.fromkeys((*([verdict.metric] if verdict.metric else []), *_CURVES)):
        lines = tuple(
            Line(each.label, each.run.series[metric], is_main=each is verdict.best)
            for each in ranked
            if each.run.series.get(metric)
        )
        if lines:
            plots.append(Plot(metric, "by step", "step", metric, lines))
    return plots


def _decision(verdict: Verdict) -> Section:
    blocks: list[Block] = [Points(tuple(found))] if (found := findings(verdict)) else []
    if failed := failures(verdict):
        blocks.append(Table(("not ranked", "why"), tuple(_split(line) for line in failed), num_texts=2))
    command = winning_command(verdict)
    if command is not None:
        blocks.append(Code(command))
    about = "The last line trains the best run by itself." if command is not None else ""
    return Section("The decision", f"{cost(verdict)}. {about}".strip(), tuple(blocks))


def _split(line: str) -> tuple[str, str]:
    name, _, reason = line.partition(": ")
    return name, reason


def _ranking(verdict: Verdict) -> Section:
    columns = ("run", verdict.metric or "metric", "95 %", "from the best", "that is", "time", "id")
    rows = tuple(_row(verdict, each) for each in verdict.ranked)
    about = (
        "By the best value of each run. The interval is a percentile bootstrap over the evaluated recipes; the "
        "difference from the best is one over the recipes that both were evaluated on, each pair for itself."
    )
    return Section("The ranking", about, (Table(columns, rows),))


def _row(verdict: Verdict, each: Ranked) -> tuple[str, ...]:
    return (
        each.label,
        show_number(each.value),
        show_interval(each.interval) if each.interval else "",
        show_difference(each),
        show_reality(verdict, each),
        show_seconds(each.run.seconds) if each.run.seconds is not None else "",
        each.run.run_id or "",
    )


def _key_plot(verdict: Verdict, key: str, name: str, axis: Axis) -> Plot:
    lines = tuple(
        Line(
            each.label,
            ((axis.position(value_of(each.run, key)), each.value),),
            ((each.interval.low, each.interval.high),) if each.interval else (),
            is_joined=False,
            is_main=each is verdict.best,
        )
        for each in verdict.ranked
    )
    better = "lower" if verdict.is_lower_better else "higher"
    note = f"{verdict.metric}, {better} is better{', logarithmic axis' if axis.is_log else ''}"
    band = None
    if verdict.noise is not None and verdict.best is not None:
        spread = verdict.noise.deviation
        band = (verdict.best.value - spread, verdict.best.value + spread)
        note += "; the band is one standard deviation of repeated seeds"
    return Plot(f"{verdict.metric} by {name}", note, key, str(verdict.metric), lines, axis.is_log, axis.labels, band)


def _parallel(verdict: Verdict, axes: dict[str, Axis]) -> Parallel:
    names = short_names(axes)
    runs = [each.run for each in verdict.ranked]
    columns = [
        _column(names[key], axis, [axis.position(value_of(run, key)) for run in runs]) for key, axis in axes.items()
    ]
    values = [each.value for each in verdict.ranked]
    metric = Axis(is_numeric=True)
    columns.append(_column(str(verdict.metric), metric, values))
    shares = columns[-1].positions
    merits = tuple(1.0 - share for share in shares) if verdict.is_lower_better else shares
    note = "a line for each run; the darker, the better"
    return Parallel(
        "All parameters together", note, tuple(each.label for each in verdict.ranked), tuple(columns), merits
    )


def _column(name: str, axis: Axis, positions: Sequence[float]) -> Column:
    scaled = [math.log(position) for position in positions] if axis.is_log else list(positions)
    low, high = min(scaled), max(scaled)
    shares = [(value - low) / (high - low) if high > low else 0.5 for value in scaled]
    marks = {share: _mark(axis, position) for share, position in zip(shares, positions, strict=True)}
    if axis.is_numeric and len(marks) > 5:
        marks = {share: label for share, label in marks.items() if share in (min(marks), max(marks))}
    return Column(name, tuple(shares), tuple(sorted(marks.items())))


def _mark(axis: Axis, position: float) -> str:
    return f"{position:.4g}" if axis.is_numeric else axis.labels[round(position)]


def _file_name(title: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in title)
