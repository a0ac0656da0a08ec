"""A verdict in words: sentences for people, and the command that trains the winner."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from recipe_exp.metrics.bootstrap import Difference, Interval
from recipe_exp.reports.numbers import show_number, show_plain, show_seconds
from recipe_exp.reports.run_summary import RunSummary
from recipe_exp.reports.verdict import Ranked, Verdict

_MAX_LISTED = 4
_DOOR = ["python", "-m", "recipe_exp"]
_LEFT_OUT = ("run_name=", "hydra.", "sweep.", "resume=")


def headline(verdict: Verdict) -> str:
    """Returns which run is the best and by what, in one sentence."""
    best = verdict.best
    if best is None:
        return "no run can be ranked"
    alone = "the only run that can be ranked" if len(verdict.ranked) == 1 else "best"
    interval = f" ({show_interval(best.interval)} over {verdict.num_examples:,} recipes)" if best.interval else ""
    step = best.run.best.step if best.run.best else None
    return (
        f"{alone}: {best.label}, {verdict.metric} {show_number(best.value)}{interval}"
        f"{f' at step {step:,}' if step is not None else ''}"
    )


def findings(verdict: Verdict) -> list[str]:
    """Returns what follows from the ranking, a sentence each."""
    return [*_differences(verdict), *_noise(verdict), *_edges(verdict), *verdict.warnings]


def failures(verdict: Verdict) -> list[str]:
    """Returns which runs are not ranked and why, one line each."""
    return [f"{run.name}: {reason}" for run, reason in verdict.unranked]


def as_data(verdict: Verdict) -> dict[str, Any]:
    """Returns the verdict as JSON values, but for numbers that are not finite."""
    return {
        "metric": verdict.metric,
        "verdict": [headline(verdict), *findings(verdict)],
        "not_ranked": failures(verdict),
        "command": winning_command(verdict),
        "differing_keys": list(verdict.axes),
        "ranking": [
            {
                "run_id": each.run.run_id,
                "label": each.label,
                "value": each.value,
                "interval": asdict(each.interval) if each.interval else None,
                "from_the_best": asdict(each.difference) | {"is_real": each.difference.is_real}
                if each.difference
                else None,
            }
            for each in verdict.ranked
        ],
        "extend": {edge.key: list(edge.suggestion) for edge in verdict.edges},
        "seed_deviation": verdict.noise.deviation if verdict.noise else None,
    }


def winning_command(verdict: Verdict) -> str | None:
    """Returns the command line that trains the best run by itself; None if it is not known."""
    if verdict.best is None or not verdict.best.run.record.get("command"):
        return None
    words = [str(word) for word in verdict.best.run.record["command"]]
    rest = words[len(_DOOR) :] if words[: len(_DOOR)] == _DOOR else words[1:]
    return shlex.join([*_DOOR, *(word for word in rest if not word.startswith(_LEFT_OUT))])


def cost(verdict: Verdict) -> str:
    """Returns what the runs took together."""
    count = len(verdict.runs)
    return f"{count:,} run{'s' if count != 1 else ''}, {show_seconds(total_seconds(verdict.runs))} of computing in all"


def total_seconds(runs: Sequence[RunSummary]) -> float:
    """Returns the wall time of all runs together."""
    return sum(run.seconds or 0.0 for run in runs)


def show_interval(interval: Interval | Difference) -> str:
    """Returns both ends of an interval."""
    return f"{_short(interval.low)} to {_short(interval.high)}"


def show_change(each: Ranked) -> str:
    """Returns by how much a run is behind the best on the recipes of both; empty where that is not known."""
    if each.difference is None:
        return ""
    sign = "+" if each.difference.value > 0 else "-" if each.difference.value < 0 else ""
    return f"{sign}{_short(abs(each.difference.value))}"


def show_difference(each: Ranked) -> str:
    """Returns by how much a run is behind the best, with the interval; empty where that is not known."""
    return f"{show_change(each)} ({show_interval(each.difference)})" if each.difference is not None else ""


def show_reality(verdict: Verdict, each: Ranked) -> str:
    """Returns whether a run's difference from the best is more than chance explains; empty where that is not known."""
    if each.difference is None:
        return ""
    if verdict.is_real(each):
        return "real"
    return "within seed noise" if each.difference.is_real else "not told apart"


def _short(value: float) -> str:
    """An end of an interval is not known to more digits than these."""
    return f"{value:#.3g}".removesuffix(".")


def _differences(verdict: Verdict) -> Iterator[str]:
    others = [each for each in verdict.ranked[1:] if each.difference is not None]
    real = [each for each in others if verdict.is_real(each)]
    within_noise = [each for each in others if each not in real and each.difference and each.difference.is_real]
    open_ones = [each for each in others if each not in real and each not in within_noise]
    unknown = [each for each in verdict.ranked[1:] if each.difference is None]
    if real:
        listed = [f"{each.label} by {show_number(abs(each.value - verdict.ranked[0].value))}" for each in real]
        yield f"really better than {_listed(listed)} (95 %, paired over the same recipes)"
    if within_noise:
        yield f"within what seeds alone change: {_listed([each.label for each in within_noise])}"
    if open_ones:
        yield f"not told apart from {_listed([each.label for each in open_ones])}: chance in the recipes explains it"
    if unknown:
        yield (
            f"no interval for the difference from {_listed([each.label for each in unknown])}: "
            "too few recipes, or no scores of each, are common"
        )


def _noise(verdict: Verdict) -> Iterator[str]:
    noise = verdict.noise
    if noise is None:
        return
    group, value, count = noise.groups[0]
    yield f"repeated seeds: {group} is the best at {show_number(value)} on average over {count} seeds"
    yield (
        f"repeated seeds: standard deviation {show_number(noise.deviation)}, so two runs that differ by less than "
        f"{show_number(noise.threshold)} may differ by their seeds alone"
    )


def _edges(verdict: Verdict) -> Iterator[str]:
    for edge in verdict.edges:
        tried = f"{show_plain(edge.values[0])} to {show_plain(edge.values[-1])}"
        following = ",".join(map(show_plain, edge.suggestion))
        yield f"the best {edge.key} is at the edge of {tried}: extend to {edge.key}={following}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    separator = "; " if any(", " in name for name in names) else ", "
    return separator.join(names[:_MAX_LISTED]) + more
