"""A verdict for a terminal: the ranking, and what follows from it."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from recipe_exp.config.messages import show_value
from recipe_exp.config.relevance import short_names
from recipe_exp.reports.numbers import show_number, show_seconds
from recipe_exp.reports.run_summary import RunSummary
from recipe_exp.reports.verdict import MAX_NAMED_KEYS, Ranked, Verdict, value_of
from recipe_exp.reports.verdict_text import (
    cost,
    failures,
    findings,
    headline,
    show_change,
    show_difference,
    show_interval,
    show_reality,
    winning_command,
)

_STYLES = {
    **dict.fromkeys(("finished", "done"), "green"),
    **dict.fromkeys(("failed", "out of memory", "killed"), "red"),
    **dict.fromkeys(("interrupted", "pruned", "running"), "yellow"),
    "not started": "dim",
}
_UNBOUNDED = 10_000


def print_verdict(console: Console, verdict: Verdict) -> None:
    """Prints the ranking, what is real of it, what failed, where to go on, and the command that trains the winner."""
    table = ranking(verdict)
    if console.is_terminal and _widest(console, table) > console.width:
        table = ranking(verdict, is_short=True)
    _print_whole(console, table)
    console.print()
    console.print(Text(headline(verdict), "bold"), soft_wrap=True)
    for sentence in findings(verdict):
        console.print(Text(sentence), soft_wrap=True)
    for line in failures(verdict):
        console.print(Text(f"not ranked: {line}", "yellow"), soft_wrap=True)
    console.print(Text(cost(verdict), "dim"), soft_wrap=True)
    command = winning_command(verdict)
    if command is not None:
        console.print(Text("the command that trains the best one"))
        console.print(Text(f"  {command}"), soft_wrap=True)


def ranking(verdict: Verdict, *, is_short: bool = False) -> Table:
    """Returns a row for each run, the best first, those that are not ranked last.

    Args:
        verdict: what is shown.
        is_short: whether the ends of the intervals are left out.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    keys = list(verdict.axes) if len(verdict.axes) <= MAX_NAMED_KEYS else []
    table.add_column("", justify="right", no_wrap=True)
    for name in short_names(keys).values() if keys else ["name"]:
        table.add_column(Text(name), overflow="fold")
    table.add_column("state", overflow="fold")
    table.add_column("steps", justify="right", overflow="fold")
    table.add_column(Text(verdict.metric or "metric"), justify="right", overflow="fold")
    has_intervals = any(each.interval for each in verdict.ranked)
    if has_intervals:
        for name in ("from the best", "") if is_short else ("95 %", "from the best", ""):
            table.add_column(name, overflow="fold")
    table.add_column("time", justify="right", overflow="fold")
    table.add_column("run", no_wrap=True)
    for place, each in enumerate(verdict.ranked, 1):
        judged = (
            [Text(cell, _style_of(verdict, each)) for cell in _judged(verdict, each, is_short=is_short)]
            if has_intervals
            else []
        )
        table.add_row(
            str(place), *_named(each.run, keys), *_state(each.run), show_number(each.value), *judged, *_end(each.run)
        )
    for run, _ in verdict.unranked:
        value = show_number(run.best.value) if run.best is not None and run.best.metric == verdict.metric else ""
        empty = [""] * ((2 if is_short else 3) if has_intervals else 0)
        table.add_row("", *_named(run, keys), *_state(run), Text(value, "dim"), *empty, *_end(run))
    return table


def _named(run: RunSummary, keys: list[str]) -> list[Text]:
    return [Text(_shown(run, key)) for key in keys] if keys else [Text(run.name)]


def _shown(run: RunSummary, key: str) -> str:
    if key in run.varying:
        return run.varying[key]
    value = value_of(run, key)
    return "" if value is None and key not in run.settings else show_value(value)


def _state(run: RunSummary) -> tuple[Text, str]:
    done = "" if run.step is None else f"{run.step:,}"
    is_whole = run.total_steps is None or run.step == run.total_steps
    return Text(run.status, _STYLES.get(run.status, "")), done if is_whole else f"{done or '?'}/{run.total_steps:,}"


def _judged(verdict: Verdict, each: Ranked, *, is_short: bool) -> tuple[str, ...]:
    reality = show_reality(verdict, each)
    if is_short:
        return show_change(each), reality
    return show_interval(each.interval) if each.interval else "", show_difference(each), reality


def _style_of(verdict: Verdict, each: Ranked) -> str:
    return "dim" if each.difference is not None and not verdict.is_real(each) else ""


def _end(run: RunSummary) -> tuple[str, Text]:
    return "" if run.seconds is None else show_seconds(run.seconds), Text(run.run_id or "")


def _widest(console: Console, table: Table) -> int:
    return console.measure(table, options=console.options.update(width=_UNBOUNDED)).maximum


def _print_whole(console: Console, table: Table) -> None:
    """A cell that is cut says nothing: a terminal folds it, and a file has no width to fold it into."""
    if not console.is_terminal:
        console.width = max(console.width, _widest(console, table))
    console.print(table)
