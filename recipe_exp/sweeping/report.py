"""What came of a sweep's trials, shown as a table and kept as `sweep.json`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from recipe_exp.config.relevance import short_names
from recipe_exp.files import write_atomically
from recipe_exp.sweeping.grid import Trial, swept_values
from recipe_exp.sweeping.live import STYLES, format_seconds, show_best
from recipe_exp.sweeping.outcomes import Best, Outcome, best_outcome


def write_summary(path: Path, run_id: str, trials: Sequence[Trial], outcomes: Mapping[int, Outcome]) -> None:
    """Writes `sweep.json`: what was swept, and what has come of each trial that has ended.

    Args:
        path: replaced as a whole, so that a reader never sees half of it.
        run_id: the sweep's.
        trials: all of them.
        outcomes: by the trial's number.
    """
    best = best_outcome(list(outcomes.values()))
    summary = {
        "sweep": run_id,
        "swept": swept_values(trials),
        "best_trial": best.trial.number if best else None,
        "trials": [_as_data(outcomes[trial.number]) for trial in trials if trial.number in outcomes],
    }
    write_atomically(path, json.dumps(summary, indent=2, ensure_ascii=False).encode())


def print_verdict(outcomes: Sequence[Outcome]) -> None:
    """Prints the table of all trials, the reason of each failure, and which trial is the best."""
    console = Console(highlight=False)
    table = _table(outcomes, with_run_ids=False)
    unbounded = console.options.update(width=10_000)
    if not console.is_terminal:
        # A file has no width that a row would have to be folded into.
        console.width = max(console.width, console.measure(table, options=unbounded).maximum)
    elif console.measure(table, options=unbounded).maximum > console.width:
        table = _table(outcomes, with_run_ids=True)
    console.print()
    console.print(table)
    for outcome in outcomes:
        if outcome.error is not None:
            console.print(Text(f"trial {outcome.trial.number} {outcome.state}: {outcome.error}"), soft_wrap=True)
    best = best_outcome(outcomes)
    if best is not None and best.best is not None and len(outcomes) > 1:
        name = f" ({best.trial.name})" if best.trial.name else ""
        console.print(Text(f"best: trial {best.trial.number}{name}, {show_best(best.best)}"), soft_wrap=True)


def _as_data(outcome: Outcome) -> dict[str, Any]:
    best = outcome.best
    return {
        "trial": outcome.trial.number,
        "varying": dict(outcome.trial.varying),
        "overrides": list(outcome.trial.overrides),
        "state": outcome.state,
        "exit_code": outcome.exit_code,
        "seconds": round(outcome.seconds, 3),
        "run_folder": outcome.run_folder,
        "run_id": outcome.run_id,
        "step": outcome.step,
        "best": {"metric": best.metric, "value": _json_number(best.value), "step": best.step} if best else None,
        "error": outcome.error,
    }


def _json_number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _table(outcomes: Sequence[Outcome], *, with_run_ids: bool) -> Table:
    """Lays all trials out; a run's id is short and finds it too, its folder's name repeats what varies."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    names = short_names(outcomes[0].trial.varying)
    metrics = {outcome.best.metric for outcome in outcomes if outcome.best}
    only_metric = next(iter(metrics)) if len(metrics) == 1 else None
    table.add_column("trial", justify="right", no_wrap=True)
    for name in names.values():
        table.add_column(Text(name), overflow="fold")
    table.add_column("state", overflow="fold")
    table.add_column("steps", justify="right", overflow="fold")
    table.add_column(Text(only_metric or "best"), justify="right", overflow="fold")
    table.add_column("time", justify="right", overflow="fold")
    table.add_column("run" if with_run_ids else "run folder", overflow="fold")
    for outcome in outcomes:
        table.add_row(
            str(outcome.trial.number),
            *(Text(outcome.trial.varying[key]) for key in names),
            Text(outcome.state, style=STYLES[outcome.state]),
            "" if outcome.step is None else str(outcome.step),
            _best_cell(outcome.best, only_metric),
            "" if outcome.exit_code is None else format_seconds(outcome.seconds),
            Text((outcome.run_id if with_run_ids else outcome.run_folder) or ""),
        )
    return table


def _best_cell(best: Best | None, only_metric: str | None) -> Text:
    if best is None:
        return Text("")
    return Text(f"{best.value:.5g}" if only_metric else show_best(best))
