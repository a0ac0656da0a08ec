"""How a run ends: by itself, by a signal, by a callback, or by an error."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from enum import Enum
from types import FrameType, TracebackType

from recipe_exp.tracking import Status


class StopReason(Enum):
    """Why a run ended. The value is the process's exit code."""

    FINISHED = 0
    EARLY_STOPPING = -1
    TIME_LIMIT = -2
    FAILED = 1
    SIGINT = 130
    SIGTERM = 143

    @property
    def exit_code(self) -> int:
        """The process's exit code; an end that was configured is a success."""
        return max(self.value, 0)

    @property
    def status(self) -> Status:
        """The run's status in run.json."""
        match self:
            case StopReason.FINISHED | StopReason.EARLY_STOPPING:
                return "finished"
            case StopReason.FAILED:
                return "failed"
            case _:
                return "interrupted"


_REASONS = {signal.SIGINT: StopReason.SIGINT, signal.SIGTERM: StopReason.SIGTERM}


class Lifecycle:
    """Turns SIGINT and SIGTERM into a stop after the present step, and remembers why the run ended.

    A second signal ends the process at once; the last complete checkpoint stays. Handlers are only set in a process's
    main thread, so a run inside a notebook's thread is stopped by its own means.

    Args:
        agree: returns the largest of a value over all processes, called once a step; None with one process.

    Attributes:
        reason: why the run ended, the same on every process; `FINISHED` until the processes agree on another.
        error: what was raised, if an error ended the run.
    """

    def __init__(self, agree: Callable[[int], int] | None = None) -> None:
        self.reason = StopReason.FINISHED
        self.error: BaseException | None = None
        # What this process alone was asked: a signal may arrive while the processes still talk about the step before.
        self._asked = StopReason.FINISHED
        self._was_signalled = False
        self._agree = agree
        self._order = list(StopReason)
        self._previous: dict[int, signal.Handlers | Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> Lifecycle:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._on_signal) for number in _REASONS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def should_stop(self) -> bool:
        """Returns whether the run is to end now; with several processes all get the same answer."""
        asked = self._asked
        self.reason = asked if self._agree is None else self._order[self._agree(self._order.index(asked))]
        return self.reason is not StopReason.FINISHED

    def stop(self, reason: StopReason) -> None:
        """Ends the run after the present step; the first reason counts."""
        if self._asked is StopReason.FINISHED:
            self._asked = reason

    def fail(self, error: BaseException) -> None:
        """Records that an error ended the run, perhaps in the middle of a step."""
        self.error = error
        self.reason = StopReason.SIGINT if isinstance(error, KeyboardInterrupt) else StopReason.FAILED

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        reason = _REASONS[signal.Signals(number)]
        if self._was_signalled:
            os._exit(reason.exit_code)
        self._was_signalled = True
        self.stop(reason)
