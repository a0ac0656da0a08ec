"""What a run was and what came of it, read from its folder alone: what comparisons are made of."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from recipe_exp.config.relevance import is_free
from recipe_exp.config.stored import stored_settings
from recipe_exp.metrics.example_scores import ExampleScores
from recipe_exp.tracking import RunFolder, is_abandoned
from recipe_exp.tracking.events import StatusChange, decode_event

EVALUATION = "eval/"
_STATUS_MARK = b'"event":"status"'

Series: TypeAlias = tuple[tuple[int, float], ...]
"""The values of one metric as (step, value), in the order of the steps."""


@dataclass(frozen=True)
class Best:
    """The best evaluated value of a run's `evaluation.best_metric`."""

    metric: str
    value: float
    step: int | None = None


@dataclass(frozen=True)
class RunSummary:
    """One run.

    Attributes:
        name: that people gave it, or that says what differs.
        status: `running`, `finished`, `pruned`, `interrupted` or `failed`, or what a sweep says of a trial.
        run_id: of the run; None for a trial that made none.
        reason: why it did not finish, in one line.
        step: steps done when it ended; None if it never said.
        total_steps: steps of the whole run; None before its first.
        settings: every key of its configuration, by dotted name.
        series: every metric of its trajectory.
        best: of its evaluated steps; None without one.
        scores: of each example, of the evaluation of its best step; None without them.
        seconds: wall time of all its executions; None if that is not known.
        varying: what a sweep gave it, as it was typed; empty for any other run.
        record: its `run.json`.
    """

    name: str
    status: str
    run_id: str | None = None
    reason: str | None = None
    step: int | None = None
    total_steps: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    series: Mapping[str, Series] = field(default_factory=dict)
    best: Best | None = None
    scores: ExampleScores | None = field(default=None, repr=False)
    seconds: float | None = None
    varying: Mapping[str, str] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def keys(self) -> dict[str, Any]:
        """The keys that change numbers, by dotted name."""
        return {key: value for key, value in self.settings.items() if not is_free(key)}

    @property
    def last_evaluation(self) -> dict[str, float]:
        """The last value of every evaluation metric, by name."""
        names = sorted(name for name in self.series if name.startswith(EVALUATION))
        return {name: self.series[name][-1][1] for name in names}


def read_summary(folder: RunFolder) -> RunSummary:
    """Returns what a run was and came to, whatever version of recipe_exp wrote it.

    Raises:
        CheckpointError: if a later version wrote it.
        ConfigError: if its configuration cannot be read.
    """
    record = folder.read_record()
    best = read_best(record.get("best"))
    status = str(record.get("status"))
    if status == "running" and is_abandoned(folder, record):
        status = "interrupted"
    elif record.get("stop_reason") == "pruned":
        status = "pruned"
    return RunSummary(
        name=str(record.get("run_name", folder.path.name)),
        status=status,
        run_id=folder.run_id,
        reason=record.get("error"),
        step=record.get("step"),
        total_steps=record.get("total_steps"),
        settings=stored_settings(folder.config_path),
        series=read_series(folder.metrics_path),
        best=best,
        scores=read_scores(folder.scores_path, best.step if best else None),
        seconds=_seconds_of(folder.journal_path),
        record=record,
    )


def read_series(path: Path) -> dict[str, Series]:
    """Returns the series of each metric in a `metrics.jsonl`.

    Null is NaN; half a line and what is no number are passed over.
    """
    series: dict[str, dict[int, float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            entry = json.loads(line)
            step, metrics = int(entry["step"]), dict(entry["metrics"])
        except (ValueError, KeyError, TypeError):  # half a line that a kill left
            continue
        for name, value in metrics.items():
            if value is None or isinstance(value, int | float):
                series.setdefault(name, {})[step] = math.nan if value is None else float(value)
    return {name: tuple(sorted(points.items())) for name, points in series.items()}


def read_best(stored: Any) -> Best | None:
    """Returns the best step as `run.json` has it; None if it has none."""
    try:
        return Best(str(stored["metric"]), float(stored["value"]), stored.get("step"))
    except (TypeError, KeyError, ValueError):
        return None


def read_scores(path: Path, step: int | None) -> ExampleScores | None:
    """Returns the scores of each example at a step, from a `scores.jsonl`; None if there are none."""
    if step is None or not path.is_file():
        return None
    mark = f'{{"step":{step},'.encode()
    with path.open("rb") as stream:
        for line in stream:
            if line.startswith(mark):
                with suppress(ValueError):  # half a line that a kill left
                    return ExampleScores.from_data(json.loads(line))
    return None


def _seconds_of(journal: Path) -> float | None:
    """The wall time between each beginning of an execution and its end, as the journal tells."""
    seconds, began, is_known = 0.0, None, False
    for change in _status_changes(journal):
        if change.status == "running":
            began = change.time
        elif began is not None:
            seconds, began, is_known = seconds + change.time - began, None, True
    return seconds if is_known else None


def _status_changes(journal: Path) -> Iterator[StatusChange]:
    if not journal.is_file():
        return
    with journal.open("rb") as stream:
        for line in stream:
            event = decode_event(line) if _STATUS_MARK in line else None
            if isinstance(event, StatusChange):
                yield event
