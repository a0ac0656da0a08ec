"""The stall watchdog: a run that hangs says where, and ends so that it can be repeated."""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from recipe_exp.errors import ExitCode
from recipe_exp.training.callbacks.callback import Callback
from recipe_exp.training.state import StepResult

if TYPE_CHECKING:
    from recipe_exp.training.trainer import Trainer

_LOOKS_PER_TIMEOUT = 20
_REPORT_SECONDS = 30.0


class WatchdogCallback(Callback):
    """Ends the process with exit code 75 when nothing has been done for too long.

    The stacks of all threads are written first. A thread of its own watches, so whatever the run waits for, be it a
    disk, a GPU or another process, must not hold Python's interpreter lock while it waits; none of them does.

    Args:
        timeout_seconds: longest time between two signs of life: the begin and end of a step, an evaluated batch, the
            begin of a save.
        stacks_path: the file that gets the stacks.
        on_stall: told what happened, in one line, before the process ends; it may fail.
    """

    priority = 100

    def __init__(self, timeout_seconds: float, stacks_path: Path, on_stall: Callable[[str], None]) -> None:
        self.timeout_seconds = timeout_seconds
        self.stacks_path = stacks_path
        self.on_stall = on_stall
        self._last_sign = time.monotonic()
        self._step = 0
        self._ended = threading.Event()

    def beat(self) -> None:
        """Notes a sign of life."""
        self._last_sign = time.monotonic()

    def on_train_begin(self, trainer: Trainer) -> None:
        """Begins to watch."""
        self.beat()
        self._step = trainer.state.step
        self._ended.clear()
        threading.Thread(target=self._watch, name="stall-watchdog", daemon=True).start()

    def on_step_begin(self, trainer: Trainer) -> None:
        """The step before is over, with all that hung on it."""
        self.beat()

    def on_step_end(self, trainer: Trainer, result: StepResult) -> None:
        """A step is done."""
        self._step = result.step
        self.beat()

    def on_validation_end(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        """An evaluation is done."""
        self.beat()

    def on_checkpoint(self, trainer: Trainer) -> None:
        """A save begins."""
        self.beat()

    def on_train_end(self, trainer: Trainer) -> None:
        """Watches no more."""
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(self.timeout_seconds / _LOOKS_PER_TIMEOUT):
            if time.monotonic() - self._last_sign > self.timeout_seconds:
                # A disk that hangs would hang the report, and whatever hangs an orderly end.
                report = threading.Thread(target=self._report, name="stall-report", daemon=True)
                report.start()
                report.join(_REPORT_SECONDS)
                os._exit(ExitCode.UNFINISHED)

    def _report(self) -> None:
        with self.stacks_path.open("w", encoding="utf-8") as stream:
            faulthandler.dump_traceback(stream, all_threads=True)
        self.on_stall(
            f"nothing was done for {self.timeout_seconds / 60:.3g} minutes after step {self._step} "
            f"(hardware.stall_timeout_minutes); where it hangs is in {self.stacks_path}"
        )
