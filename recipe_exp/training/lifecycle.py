"""How a run ends: by itself, by a signal, by a callback, or by an error."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from enum import Enum
from types import TracebackType

from recipe_exp.errors import ExitCode
from recipe_exp.signals import ENDING_SIGNALS, Interrupted, handling
from recipe_exp.tracking import Status

_REPEAT_SECONDS = 1.0


class StopReason(Enum):
    """Why a run ended. With several processes, the latest in this order counts."""

    FINISHED = "finished"
    EARLY_STOPPING = "early_stopping"
    PRUNED = "pruned"
    TIME_LIMIT = "time_limit"
    FAILED = "failed"
    SIGINT = "sigint"
    SIGTERM = "sigterm"

    @property
    def exit_code(self) -> ExitCode:
        """The process's exit code."""
        match self:
            case StopReason.FINISHED | StopReason.EARLY_STOPPING | StopReason.PRUNED:
                return ExitCode.FINISHED
            case StopReason.TIME_LIMIT:
                return ExitCode.UNFINISHED
            case StopReason.FAILED:
                return ExitCode.FAILED
            case StopReason.SIGINT:
                return ExitCode.SIGINT
            case StopReason.SIGTERM:
                return ExitCode.SIGTERM

    @property
    def status(self) -> Status:
        """The run's status in run.json."""
        match self:
            case StopReason.FINISHED | StopReason.EARLY_STOPPING | StopReason.PRUNED:
                return "finished"
            case StopReason.FAILED:
                return "failed"
            case _:
                return "interrupted"


_REASONS = {ExitCode.SIGINT: StopReason.SIGINT, ExitCode.SIGTERM: StopReason.SIGTERM}


class Lifecycle:
    """Turns the ending signals into a stop after the present step, and remembers why the run ended.

    A second signal ends the process at once; the last complete checkpoint stays. With several processes it counts as a
    second one only after a second. Handlers are only set in a process's
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
        self._signalled_at: float | None = None
        self._is_interruptible = False
        self._agree = agree
        self._order = list(StopReason)
        self._handlers = ExitStack()

    def __enter__(self) -> Lifecycle:
        self._handlers.enter_context(handling(self._on_signal))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handlers.close()

    def should_stop(self) -> bool:
        """Returns whether the run is to end now; with several processes all get the same answer."""
        asked = self._asked
        self.reason = asked if self._agree is None else self._order[self._agree(self._order.index(asked))]
        return self.reason is not StopReason.FINISHED

    def stop(self, reason: StopReason) -> None:
        """Ends the run after the present step; the first reason counts."""
        if self._asked is StopReason.FINISHED:
            self._asked = reason

    def give_up(self, interruption: Interrupted) -> None:
        """Records that the run is interrupted even after its last step: something beside the steps is undone."""
        self.reason = _REASONS[interruption.exit_code]

    def fail(self, error: BaseException) -> None:
        """Records that an error ended the run, perhaps in the middle of a step."""
        self.error = error
        if isinstance(error, Interrupted):
            self.give_up(error)
        else:
            self.reason = StopReason.SIGINT if isinstance(error, KeyboardInterrupt) else StopReason.FAILED

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Lets a signal raise `Interrupted` inside, for work that can be done again and changes no weight.

        Several processes would lose each other in the middle of an exchange: they do the work to its end, or call
        `raise_if_asked` where all of them pass.
        """
        if self._agree is not None:
            yield
            return
        self._is_interruptible = True
        try:
            self._raise(self._asked)
            yield
        finally:
            self._is_interruptible = False

    def raise_if_asked(self) -> None:
        """Raises `Interrupted` on every process if a signal reached any of them; called by all of them alike.

        Raises:
            Interrupted: if so.
        """
        asked = self._order.index(self._asked)
        self._raise(self._order[asked if self._agree is None else self._agree(asked)])

    def _raise(self, asked: StopReason) -> None:
        if asked in _REASONS.values():
            raise Interrupted(asked.exit_code)

    def _on_signal(self, number: int) -> None:
        exit_code = ENDING_SIGNALS[signal.Signals(number)]
        if self._signalled_at is not None:
            # What reaches every process of a job reaches a worker twice: once from whoever started it.
            if self._agree is not None and time.monotonic() - self._signalled_at < _REPEAT_SECONDS:
                return
            os._exit(exit_code)
        self._signalled_at = time.monotonic()
        self.stop(_REASONS[exit_code])
        if self._is_interruptible:
            self._raise(self._asked)
