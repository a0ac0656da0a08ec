"""A sweep's side of a job: its process as far as the shared folder and the cluster tell of it."""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from recipe_exp.errors import ExitCode
from recipe_exp.secrets import is_secret_name
from recipe_exp.sweeping.executors import Exit, Order
from recipe_exp.sweeping.job import JobFolder

LOOK_SECONDS = 0.5
LATE_SECONDS = 10.0
"""So long a file may take from the machine that wrote it to the one that looks for it."""


class Handle(Protocol):
    """A job, as its cluster knows it."""

    @property
    def name(self) -> str:
        """What people call it."""

    def is_over(self) -> bool:
        """Whether the cluster has done with it, as far as it says."""

    def cancel(self) -> None:
        """Takes it from the queue, or ends it at once."""


class RemoteExecutor:
    """Starts trials as jobs of a cluster.

    Args:
        sweep: folder of the sweep.
        owner: this process among those that work on the sweep.
        submit: gives the job of a folder to the cluster.
    """

    def __init__(self, sweep: Path, owner: str, submit: Callable[[Path], Handle]) -> None:
        self._sweep = sweep
        self._owner = owner
        self._submit = submit

    def start(self, order: Order) -> RemoteProcess:
        """Queues a trial.

        Raises:
            SweepError: the cluster takes no jobs.
        """
        passed_on = {
            name: value
            for name, value in os.environ.items()
            if name.startswith("RECIPE_EXP_") and not is_secret_name(name)
        }
        order = Order(order.key, order.arguments, {**passed_on, **order.environment}, order.log, order.folder)
        log = Path(order.log)
        name = f"{log.stem}-{secrets.token_hex(4)}"
        folder = JobFolder.create(self._sweep, name, order, self._owner)
        return RemoteProcess(folder, self._submit(folder.path), log)


class RemoteProcess:
    """A trial that a cluster runs, or will run.

    Args:
        folder: of the job.
        handle: the job.
        log: the trial's; gets a line if the job ends before there is a trial.
    """

    def __init__(self, folder: JobFolder, handle: Handle, log: Path) -> None:
        self._folder = folder
        self._handle = handle
        self._log = log
        self._queued = time.monotonic()
        self._looked = 0.0
        self._over_since: float | None = None
        self._is_cancelled = False

    def exit(self) -> Exit | None:
        """Returns how the trial ended, None while it has not."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return None
        self._looked = time.monotonic()
        end = self._folder.end()
        if end is not None:
            return Exit(end.exit_code, end.seconds)
        if self._is_cancelled and not self._folder.has_begun():
            return Exit(-signal.SIGTERM, 0.0)
        return self._exit_without_end() if self._is_over() else None

    def send_signal(self, number: int) -> None:
        """Lets the trial have a signal; takes it from the queue if it has not begun."""
        self._folder.send_signal(number)
        if not self._folder.has_begun():
            self._handle.cancel()
            self._is_cancelled = True

    def kill(self) -> None:
        """Ends the job; the kernel sees to the trial's end."""
        self._handle.cancel()

    def _is_over(self) -> bool:
        if self._over_since is None and self._handle.is_over():
            self._over_since = time.monotonic()
        return self._over_since is not None and time.monotonic() - self._over_since > LATE_SECONDS

    def _exit_without_end(self) -> Exit:
        if self._folder.has_begun():
            return Exit(-signal.SIGKILL, time.monotonic() - self._queued)
        with self._log.open("a") as log:
            log.write(f"error: {self._handle.name} ended before its trial began; see {self._folder.path}\n")
        return Exit(ExitCode.FAILED, 0.0)
