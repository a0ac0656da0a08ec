"""Work that stands back while training needs the CPU, and does not once training is over."""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, TypeVar

_NICENESS = 10
_LOOK_SECONDS = 0.1

Result = TypeVar("Result")


class Background:
    """Does one thing at a time: in a thread of the lowest priority while training lives, in the caller's after it.

    A process that made itself nice may not take that back without privileges, and one that stays nice starves on a
    busy machine while somebody waits for it. On Linux a thread is nice by itself, so the rest of the process keeps
    its priority. What is under way when training ends is hastened where the system permits it.

    Args:
        is_over: whether training is over.

    Attributes:
        thread_id: of the thread in which training is stood back for, as the system counts threads.
    """

    def __init__(self, is_over: Callable[[], bool]) -> None:
        self._is_over = is_over
        self._is_hastened = False
        self._tasks: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        _set_share_of_session(_NICENESS)
        # Nothing waits for it at the end of the process: a call that hangs ends with it.
        thread = threading.Thread(target=self._work, name="background", daemon=True)
        thread.start()
        self.thread_id = thread.native_id

    def do(self, action: Callable[[], Result]) -> Result:
        """Returns what the action returns, and raises what it raises."""
        if self._is_over():
            self._hasten()
            return action()
        future: Future[Result] = Future()
        self._tasks.put((future, action))
        while not wait([future], _LOOK_SECONDS).done:
            if self._is_over():
                self._hasten()
        return future.result()

    def _work(self) -> None:
        with contextlib.suppress(OSError):
            os.nice(_NICENESS)
        while True:
            future, action = self._tasks.get()
            try:
                result = action()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

    def _hasten(self) -> None:
        if self._is_hastened:
            return
        self._is_hastened = True
        _set_share_of_session(0)
        if sys.platform == "linux" and self.thread_id is not None:
            with contextlib.suppress(OSError):  # takes a privilege
                os.setpriority(os.PRIO_PROCESS, self.thread_id, os.getpriority(os.PRIO_PROCESS, 0))


def _set_share_of_session(niceness: int) -> None:
    """Linux may give every session the same share of the CPU; being nice only counts inside one's own."""
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(niceness))
