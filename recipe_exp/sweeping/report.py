"""What came of a sweep's trials: read from their run folders, shown as a table, kept as `sweep.json`."""

from __future__ import annotations

import json
import math
import os
import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.relevance import short_names
from recipe_exp.errors import ConfigError, ExitCode
from recipe_exp.files import write_atomically
from recipe_exp.secrets import redact
from recipe_exp.signals import ENDING_SIGNALS
from recipe_exp.sweeping.grid import Trial, swept_values
from recipe_exp.sweeping.trials import Ended, log_path
from recipe_exp.tracking import RunFolder, list_runs

TrialStatus = Literal["finished", "failed", "interrupted", "not started"]

_STOPPED = frozenset({*ENDING_SIGNALS.values(), *(-number for number in ENDING_SIGNALS), ExitCode.UNFINISHED})
_LOG_TAIL_BYTES = 65_536
_MAX_ERROR_LENGTH = 500
_ERROR_LINE = re.compile(r"error: .+|[\w.]*(?:Error|Exception|Exit|Interrupt)\b.*")
_STYLES: dict[TrialStatus, str] = {"finished": "green", "failed": "red", "interrupted": "yellow", "not started": "dim"}


@dataclass(frozen=True)
class Best:
    """The best evaluated value of a run's `evaluation.best_metric`."""

    metric: str
    value: float
    step: int | None


@dataclass(frozen=True)
class Outcome:
    """What came of one trial.

    Attributes:
        exit_code: of its process, negative for a signal's number; None if it was not started.
        seconds: wall time of its process.
        run_folder: name of its run folder; None if it made none.
        step: the last step of training.
        error: why it failed, in one line.
    """

    trial: Trial
    status: TrialStatus
    exit_code: int | None = None
    seconds: float = 0.0
    run_folder: str | None = None
    run_id: str | None = None
    step: int | None = None
    best: Best | None = None
    error: str | None = None


def read_outcome(trial: Trial, ended: Ended, sweep: RunFolder) -> Outcome:
    """Returns what came of a trial, from its exit code, the `run.json` of its run folder and its log."""
    folder = _find_run_folder(trial, ended, sweep)
    record = folder.read_record() if folder is not None else {}
    status = _status(ended.exit_code, record)
    return Outcome(
        trial=trial,
        status=status,
        exit_code=ended.exit_code,
        seconds=ended.seconds,
        run_folder=folder.path.name if folder is not None else None,
        run_id=folder.run_id if folder is not None else None,
        step=record.get("step"),
        best=_best(record.get("best")),
        error=_error(ended.exit_code, log_path(sweep.path, trial)) if status == "failed" else None,
    )


def best_outcome(outcomes: Sequence[Outcome]) -> Outcome | None:
    """Returns the finished trial with the best value; None if there is none or if they were judged differently."""
    judged = [
        (outcome.best, outcome)
        for outcome in outcomes
        if outcome.best is not None and math.isfinite(outcome.best.value) and outcome.status == "finished"
    ]
    criteria = {(best.metric, outcome.trial.config.evaluation.best_mode) for best, outcome in judged}
    if len(criteria) != 1:
        return None
    ((_, mode),) = criteria
    choose = min if mode == "min" else max
    return choose(judged, key=lambda pair: pair[0].value)[1]


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
            console.print(Text(f"trial {outcome.trial.number} failed: {outcome.error}"), soft_wrap=True)
    best = best_outcome(outcomes)
    if best is not None and best.best is not None and len(outcomes) > 1:
        name = f" ({best.trial.name})" if best.trial.name else ""
        console.print(Text(f"best: trial {best.trial.number}{name}, {_show_best(best.best)}"), soft_wrap=True)


def describe_end(outcome: Outcome) -> str:
    """Returns one line on how a trial ended."""
    best = f", {_show_best(outcome.best)}" if outcome.best is not None else ""
    error = f": {outcome.error}" if outcome.error is not None else ""
    return f"{outcome.status} after {format_seconds(outcome.seconds)}{best}{error}"


def format_seconds(seconds: float) -> str:
    """Returns a duration as a person reads it, such as `12 s`, `3 min 05 s` or `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def _find_run_folder(trial: Trial, ended: Ended, sweep: RunFolder) -> RunFolder | None:
    """The run folder that the trial's process made, or, if it had worker processes, the first of them."""
    records = [(folder, folder.read_record()) for folder in list_runs(sweep.output_dir, "run")]
    children = [(folder, record) for folder, record in records if record.get("parent_run_id") == sweep.run_id]
    made_by_it = (folder for folder, record in children if record.get("pid") == ended.process_id)
    if trial.config.hardware.num_processes == 1:
        return next(made_by_it, None)
    return next(made_by_it, next((folder for folder, _ in children if _is_run_of(trial, folder)), None))


def _is_run_of(trial: Trial, folder: RunFolder) -> bool:
    """Whether a run has the trial's configuration, but for what its slot added to it."""
    try:
        found = ExperimentConfig.from_yaml(folder.config_path).model_dump()
    except ConfigError:
        return False
    wanted = trial.config.model_dump()
    for data in (found, wanted):
        data["run_name"] = data["hardware"]["num_threads"] = None
    return found == wanted


def _status(exit_code: int, record: Mapping[str, Any]) -> TrialStatus:
    if exit_code in _STOPPED:
        return "interrupted"
    if exit_code != 0 or record.get("status") == "failed":
        return "failed"
    return "interrupted" if record.get("status") == "interrupted" else "finished"


def _best(stored: Any) -> Best | None:
    try:
        return Best(str(stored["metric"]), float(stored["value"]), stored.get("step"))
    except (TypeError, KeyError, ValueError):
        return None


def _error(exit_code: int, log: Path) -> str:
    if exit_code < 0:
        name = signal.Signals(-exit_code).name
        cause = "; by the system, if its memory was full" if -exit_code == signal.SIGKILL else ""
        return f"killed by {name}{cause}"
    lines = [line.strip() for line in _tail(log).splitlines() if line.strip()] if log.is_file() else []
    errors = [line for line in lines if _ERROR_LINE.fullmatch(line)]
    last = (errors or lines or [f"exit code {exit_code}"])[-1]
    return redact(last.removeprefix("error: "))[:_MAX_ERROR_LENGTH]


def _tail(path: Path) -> str:
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(size - _LOG_TAIL_BYTES, 0))
        return stream.read().decode(errors="replace")


def _as_data(outcome: Outcome) -> dict[str, Any]:
    best = outcome.best
    return {
        "trial": outcome.trial.number,
        "varying": dict(outcome.trial.varying),
        "overrides": list(outcome.trial.overrides),
        "status": outcome.status,
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
    table.add_column("status", overflow="fold")
    table.add_column("steps", justify="right", overflow="fold")
    table.add_column(Text(only_metric or "best"), justify="right", overflow="fold")
    table.add_column("time", justify="right", overflow="fold")
    table.add_column("run" if with_run_ids else "run folder", overflow="fold")
    for outcome in outcomes:
        table.add_row(
            str(outcome.trial.number),
            *(Text(outcome.trial.varying[key]) for key in names),
            Text(outcome.status, style=_STYLES[outcome.status]),
            "" if outcome.step is None else str(outcome.step),
            _best_cell(outcome.best, only_metric),
            "" if outcome.exit_code is None else format_seconds(outcome.seconds),
            Text((outcome.run_id if with_run_ids else outcome.run_folder) or ""),
        )
    return table


def _best_cell(best: Best | None, only_metric: str | None) -> Text:
    if best is None:
        return Text("")
    return Text(f"{best.value:.5g}" if only_metric else _show_best(best))


def _show_best(best: Best) -> str:
    at_step = f" at step {best.step}" if best.step is not None else ""
    return f"{best.metric} {best.value:.5g}{at_step}"
