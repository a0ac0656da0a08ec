"""The signals that end a run, and what they mean: the same in every task and in every phase of a run."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from recipe_exp.errors import ExitCode

ENDING_SIGNALS = {
    signal.SIGINT: ExitCode.SIGINT,
    signal.SIGTERM: ExitCode.SIGTERM,
    # What Slurm sends some time before it takes the machine away, if it was asked to.
    signal.SIGUSR1: ExitCode.SIGTERM,
}
"""Each signal that ends a run, and the exit code of a process that it ended."""

_PR_SET_PDEATHSIG = 1
# Loaded here because a process between fork and exec should load nothing.
_LIBC = ctypes.CDLL(None, use_errno=True)


class Interrupted(KeyboardInterrupt):
    """A signal asked the process to end. Not an `Exception`, so that nothing catches it by accident.

    Args:
        exit_code: what the process is to exit with.
    """

    def __init__(self, exit_code: ExitCode) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


@contextlib.contextmanager
def handling(handler: Callable[[int], None]) -> Iterator[None]:
    """Calls `handler` with the number of each ending signal that arrives inside.

    Python refuses handlers outside a process's main thread; there, signals stay with whoever has them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def take(number: int, _frame: FrameType | None) -> None:
        handler(number)

    previous = {number: signal.signal(number, take) for number in ENDING_SIGNALS}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


@contextlib.contextmanager
def raising() -> Iterator[None]:
    """Lets an ending signal raise `Interrupted` where the program stands; a second one ends the process at once.

    What is written meanwhile is written so that a kill does not harm it, so leaving at once does not either.
    """
    was_signalled = False

    def interrupt(number: int) -> None:
        nonlocal was_signalled
        exit_code = ENDING_SIGNALS[signal.Signals(number)]
        if was_signalled:
            os._exit(exit_code)
        was_signalled = True
        raise Interrupted(exit_code)

    with handling(interrupt):
        yield


def ended_with_parent() -> Callable[[], None]:
    """Returns a `preexec_fn` that makes the kernel send a child SIGTERM when this process dies, even without a word.

    The kernel ties this to the thread that starts the child, which therefore has to live as long as the child does.
    """
    parent_id = os.getpid()
    return lambda: end_with_parent(parent_id, signal.SIGTERM)


def end_with_parent(parent_id: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Has the kernel send a signal to this process when its parent dies; see `ended_with_parent`."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent_id:  # it died before the kernel was asked
        os._exit(ENDING_SIGNALS[signal.SIGTERM])
