"""How far a trial is that runs at present: read from its run folder, as much as was appended since the last look."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from recipe_exp.errors import CheckpointError
from recipe_exp.tracking import RunFolder

# A trial makes its folder seconds after it starts, and finding it reads those of the other trials.
_FIND_SECONDS = 1.0


@dataclass(frozen=True)
class Evaluation:
    """A value of the ranking metric that a trial has just evaluated."""

    step: int
    value: float


class TrialProgress:
    """One trial's steps and evaluations, as far as they are known.

    Args:
        find_folder: returns the trial's run folder, None before it has made one.
        metric: what ranks trials.
        mode: `min` or `max`.

    Attributes:
        step: the last one that was logged.
        total_steps: how many the run has; None before that is known.
        best: of the metric so far.
    """

    def __init__(self, find_folder: Callable[[], RunFolder | None], metric: str, mode: str) -> None:
        self._find_folder = find_folder
        self._metric = metric
        self._choose = min if mode == "min" else max
        self._folder: RunFolder | None = None
        self._find_at = 0.0
        self._position = 0
        self._first: tuple[float, int] | None = None
        self.step: int | None = None
        self.total_steps: int | None = None
        self.best: float | None = None

    def look(self) -> list[Evaluation]:
        """Reads on, and returns what has been evaluated since the last call."""
        if self._folder is None and time.monotonic() >= self._find_at:
            self._folder, self._find_at = self._find_folder(), time.monotonic() + _FIND_SECONDS
        if self._folder is None:
            return []
        if self.total_steps is None:
            with suppress(CheckpointError, OSError):
                self.total_steps = self._folder.read_record().get("total_steps")
        return [found for line in self._lines(self._folder) if (found := self._take(line)) is not None]

    @property
    def seconds_left(self) -> float | None:
        """An estimate from the steps that were watched; None before there are two."""
        if self._first is None or self.step is None or self.total_steps is None:
            return None
        since, first_step = self._first
        if self.step <= first_step:
            return None
        return (time.monotonic() - since) / (self.step - first_step) * max(self.total_steps - self.step, 0)

    def _lines(self, folder: RunFolder) -> list[bytes]:
        try:
            with folder.metrics_path.open("rb") as stream:
                # A run that goes on from an earlier checkpoint has a shorter file.
                if stream.seek(0, 2) < self._position:
                    self._position = 0
                stream.seek(self._position)
                content = stream.read()
        except OSError:
            return []
        whole = content[: content.rfind(b"\n") + 1]
        self._position += len(whole)
        return whole.splitlines()

    def _take(self, line: bytes) -> Evaluation | None:
        try:
            entry: dict[str, Any] = json.loads(line)
            step, metrics = int(entry["step"]), dict(entry["metrics"])
        except (ValueError, KeyError, TypeError):
            return None
        self.step = step
        if self._first is None:
            self._first = (time.monotonic(), step)
        value = metrics.get(self._metric)
        if not isinstance(value, int | float):
            # What is not finite is null there, and as an evaluation it is worse than every number.
            return Evaluation(step, float("nan")) if self._metric in metrics else None
        self.best = value if self.best is None else self._choose(self.best, value)
        return Evaluation(step, float(value))
