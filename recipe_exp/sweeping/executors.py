"""How a trial's process is started, watched and ended: on this machine, or through what a cluster offers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import msgspec

from recipe_exp.signals import ended_with_parent
from recipe_exp.tracking import TRIAL_VARIABLE


@dataclass(frozen=True)
class Exit:
    """How a trial's process ended.

    Attributes:
        exit_code: as the process gave it; negative for the number of the signal that killed it.
        seconds: from its start to its end.
    """

    exit_code: int
    seconds: float


class Order(msgspec.Struct, frozen=True):
    """An attempt at a trial, as a command.

    Attributes:
        key: of the trial.
        arguments: of `python -m recipe_exp`.
        environment: variables beside those of whoever starts it.
        log: gets the output.
        folder: what relative paths are relative to.
    """

    key: str
    arguments: list[str]
    environment: dict[str, str]
    log: str
    folder: str


class TrialProcess(Protocol):
    """A trial that was started; a cluster may let it wait before it runs."""

    def exit(self) -> Exit | None:
        """Returns how it ended, None while it has not; cheap enough to be called often."""

    def send_signal(self, number: int) -> None:
        """Lets the trial have a signal."""

    def kill(self) -> None:
        """Ends it at once."""


class Executor(Protocol):
    """Starts trials."""

    def start(self, order: Order) -> TrialProcess:
        """Starts a trial.

        Raises:
            SweepError: the cluster takes no jobs.
        """


class Cluster(Protocol):
    """What stands in for this machine's slots.

    Attributes:
        cores: CPU threads of a trial.
    """

    @property
    def cores(self) -> int: ...

    def open(self, sweep: Path, owner: str) -> AbstractContextManager[Executor]:
        """Returns what starts the trials of a sweep.

        Args:
            sweep: folder of the sweep, which the cluster's machines see too.
            owner: this process among those that work on the sweep.

        Raises:
            SweepError: the cluster does not answer.
        """


class LocalExecutor:
    """Starts processes of this machine, each in a session of its own.

    When this process dies without a word, the kernel sends SIGTERM to its trials, so that none goes on alone, but each
    still writes its checkpoint and its status, and ends its own worker processes.
    """

    def start(self, order: Order) -> TrialProcess:
        """Starts a trial."""
        return _LocalProcess(start_process(order))


class _LocalProcess:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._started = time.monotonic()

    def exit(self) -> Exit | None:
        exit_code = self._process.poll()
        return None if exit_code is None else Exit(exit_code, time.monotonic() - self._started)

    def send_signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def start_process(order: Order) -> subprocess.Popen[bytes]:
    """Starts a trial as a child of this process, with whose end it ends."""
    with _open_log(Path(order.log)) as log:
        return subprocess.Popen(
            [sys.executable, "-m", "recipe_exp", *order.arguments],
            cwd=order.folder,
            # Unbuffered, so that the log shows what happens now and a killed trial's last words are in it.
            env={**os.environ, "PYTHONUNBUFFERED": "1", TRIAL_VARIABLE: order.key, **order.environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=ended_with_parent(),
        )


def _open_log(path: Path) -> IO[bytes]:
    try:
        return path.open("ab")
    except OSError as error:
        print(f"warning: {path}: {error.strerror}; what the trial prints is not kept", flush=True)
        return Path(os.devnull).open("ab")
