"""The training process, seen from its uploader."""

from __future__ import annotations

import select
import sys
import time

_HURRIED_SECONDS = 2.0


class TrainingProcess:
    """The process whose journal is sent; a process id that another process got later is not it.

    It tells the uploader that training is over by a line on the uploader's standard input, which ends with the
    process too.

    Args:
        process_id: of the process.
    """

    def __init__(self, process_id: int) -> None:
        import psutil

        self._psutil = psutil
        try:
            self._process = psutil.Process(process_id)
        except psutil.NoSuchProcess:
            self._process = None

    def is_alive(self) -> bool:
        """Whether the process exists; after training it may go on with something else."""
        try:
            if self._process is None or not self._process.is_running():
                return False
            return bool(self._process.status() != self._psutil.STATUS_ZOMBIE)
        except self._psutil.NoSuchProcess:
            return False

    def is_over(self) -> bool:
        """Whether training has ended, with or without its process."""
        return self._is_released(0.0) or not self.is_alive()

    def wait(self, seconds: float) -> None:
        """Wait, but not longer than until training is over, and only shortly once it is."""
        if self.is_over():
            time.sleep(min(seconds, _HURRIED_SECONDS))
        else:
            self._is_released(seconds)

    @staticmethod
    def _is_released(seconds: float) -> bool:
        if sys.stdin is None:
            time.sleep(seconds)
            return False
        readable, _, _ = select.select([sys.stdin], [], [], seconds)
        return bool(readable)
