"""What came of a trial: read from how its process ended, the `run.json` of its run folder and its log."""

from __future__ import annotations

import math
import os
import re
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe_exp.errors import CheckpointError, ExitCode
from recipe_exp.secrets import redact
from recipe_exp.signals import ENDING_SIGNALS
from recipe_exp.sweeping.executors import Exit
from recipe_exp.sweeping.grid import Trial
from recipe_exp.sweeping.ledger import Ended, TrialRecord, TrialState, now
from recipe_exp.sweeping.trials import log_path
from recipe_exp.tracking import RunFolder

_STOPPED = frozenset({*ENDING_SIGNALS.values(), *(-number for number in ENDING_SIGNALS), ExitCode.UNFINISHED})
_KILLED = frozenset({-signal.SIGKILL, ExitCode.KILLED})
_OUT_OF_MEMORY = re.compile(
    r"out of memory|OutOfMemoryError|MemoryError|can't allocate memory|cannot allocate memory", re.IGNORECASE
)
_LOG_TAIL_BYTES = 65_536
_MAX_ERROR_LENGTH = 500
_ERROR_LINE = re.compile(r"error: .+|[\w.]*(?:Error|Exception|Exit|Interrupt)\b.*")
# Clocks of machines that share a folder may differ by this much.
_CLOCK_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Best:
    """The best evaluated value of a run's `evaluation.best_metric`."""

    metric: str
    value: float
    step: int | None


@dataclass(frozen=True)
class Outcome:
    """What came of one trial, in all its attempts.

    Attributes:
        exit_code: of the last process, negative for a signal's number; None if none has ended.
        seconds: wall time of its processes.
        run_folder: name of its run folder; None if it made none.
        step: the last step of training.
        error: why it has no result, in one line.
    """

    trial: Trial
    state: TrialState
    exit_code: int | None = None
    seconds: float = 0.0
    run_folder: str | None = None
    run_id: str | None = None
    step: int | None = None
    best: Best | None = None
    error: str | None = None


def outcome_of(trial: Trial, record: TrialRecord) -> Outcome:
    """Returns what the ledger says came of a trial."""
    end = record.end
    if end is None:
        return Outcome(trial, record.state)
    is_ranked = end.metric is not None and end.best is not None
    return Outcome(
        trial=trial,
        state=record.state,
        exit_code=end.exit_code,
        seconds=record.seconds,
        run_folder=end.run_folder,
        run_id=end.run_id,
        step=end.step,
        best=Best(end.metric, end.best, end.best_step) if is_ranked else None,  # type: ignore[arg-type]
        error=end.error if record.state == end.state else None,
    )


def read_end(trial: Trial, exit: Exit, sweep: RunFolder) -> Ended:
    """Returns what the ledger is to say of an attempt whose process has ended."""
    folder = find_trial_run(sweep, trial.key)
    record = _read(folder)
    reason = _reason(exit.exit_code, record, log_path(sweep.path, trial.number))
    state = _state(exit.exit_code, record, reason)
    return Ended(
        time=now(),
        key=trial.key,
        state=state,
        exit_code=exit.exit_code,
        seconds=round(exit.seconds, 3),
        run_id=folder.run_id if folder is not None else None,
        run_folder=folder.path.name if folder is not None else None,
        step=record.get("step"),
        micro_batch_tokens=(record.get("machinery") or {}).get("micro_batch_tokens"),
        error=reason if state in ("failed", "killed", "out of memory") else None,
        **_best_fields(_best(record.get("best"))),
    )


def unseen_end(record: TrialRecord, sweep: RunFolder) -> Ended:
    """Returns what the ledger is to say of an attempt whose process nobody saw end: the sweep died before it."""
    folder = find_trial_run(sweep, record.key)
    run = _read(folder)
    state: TrialState = _state(ExitCode.FINISHED, run, "") if run.get("status") == "finished" else "killed"
    return Ended(
        time=now(),
        key=record.key,
        state=state,
        run_id=folder.run_id if folder is not None else None,
        run_folder=folder.path.name if folder is not None else None,
        step=run.get("step"),
        micro_batch_tokens=(run.get("machinery") or {}).get("micro_batch_tokens"),
        error="the process that ran the sweep was killed" if state == "killed" else None,
        **_best_fields(_best(run.get("best"))),
    )


def find_trial_run(sweep: RunFolder, key: str) -> RunFolder | None:
    """Returns the newest run folder that a trial made; None if it made none."""
    began = float(sweep.read_record().get("created", 0.0)) - _CLOCK_SECONDS
    oldest = time.strftime("%Y%m%d-%H%M%S", time.gmtime(max(began, 0.0)))
    paths = (sweep.output_dir / "runs").glob("*/")
    for path in sorted((path for path in paths if path.name >= oldest), key=lambda path: path.name, reverse=True):
        with suppress(CheckpointError, OSError):
            folder = RunFolder.open(path)
            record = folder.read_record()
            if record.get("trial") == key and record.get("parent_run_id") == sweep.run_id:
                return folder
    return None


def best_outcome(outcomes: Sequence[Outcome]) -> Outcome | None:
    """Returns the trial that is done and has the best value; None if there is none or they were judged differently."""
    judged = [
        (outcome.best, outcome)
        for outcome in outcomes
        if outcome.best is not None and math.isfinite(outcome.best.value) and outcome.state == "done"
    ]
    criteria = {(best.metric, outcome.trial.config.evaluation.best_mode) for best, outcome in judged}
    if len(criteria) != 1:
        return None
    ((_, mode),) = criteria
    choose = min if mode == "min" else max
    return choose(judged, key=lambda pair: pair[0].value)[1]


def _read(folder: RunFolder | None) -> dict[str, Any]:
    with suppress(CheckpointError, OSError):
        return folder.read_record() if folder is not None else {}
    return {}


def _state(exit_code: int, record: Mapping[str, Any], reason: str) -> TrialState:
    if exit_code in _STOPPED:
        return "interrupted"
    if exit_code in _KILLED:
        return "killed"
    if exit_code != 0 or record.get("status") == "failed":
        return "out of memory" if _OUT_OF_MEMORY.search(reason) else "failed"
    if record.get("stop_reason") == "pruned":
        return "pruned"
    return "interrupted" if record.get("status") == "interrupted" else "done"


def _best(stored: Any) -> Best | None:
    try:
        return Best(str(stored["metric"]), float(stored["value"]), stored.get("step"))
    except (TypeError, KeyError, ValueError):
        return None


def _best_fields(best: Best | None) -> dict[str, Any]:
    return {} if best is None else {"metric": best.metric, "best": best.value, "best_step": best.step}


def _reason(exit_code: int, record: Mapping[str, Any], log: Path) -> str:
    if exit_code == 0 and record.get("status") != "failed":
        return ""
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
