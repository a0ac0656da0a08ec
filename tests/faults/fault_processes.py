"""Commands in processes of their own that are killed from outside, and whom that leaves alive."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

LIMIT_SECONDS = 240.0
# A killed process is noticed at the next exchange; one that hangs there is killed after a grace of 30 seconds.
MAX_SECONDS_TO_END = 45.0
ROLES = ("launcher", "rank 0", "rank 1")
_POLL_SECONDS = 0.05
_SHOWN_CHARACTERS = 1500


@dataclass(frozen=True)
class Blow:
    """A SIGKILL for one process of several.

    Attributes:
        role: of `ROLES`.
        at_step: it comes after the checkpoint of this step is there; None counts from the start.
        after_seconds: and this much later.
    """

    role: str
    at_step: int | None
    after_seconds: float

    def __str__(self) -> str:
        since = "the start" if self.at_step is None else f"step {self.at_step}"
        return f"{self.role}, {self.after_seconds:.3f} s after {since}"


@dataclass(frozen=True)
class Fall:
    """What became of a start of the command.

    Attributes:
        code: exit code of the command, or minus the signal that ended it.
        shown: what it printed.
        was_struck: whether the blow fell; a role that did not exist yet is waited for.
        seconds_to_end: from the blow until no process of the command was left.
    """

    code: int
    shown: str
    was_struck: bool
    seconds_to_end: float = 0.0

    @property
    def last_words(self) -> str:
        """The end of what it printed, for a message."""
        return self.shown[-_SHOWN_CHARACTERS:]


class PlainProcess:
    """`python -m recipe_exp ...`, or another command, in a folder of its own.

    Args:
        command: the whole command line.
        folder: where it runs; it gets `temporary/`, by which every process that comes of the command is known.
    """

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self.folder = folder
        self._temporary = folder / "temporary"
        self._temporary.mkdir(exist_ok=True)
        self._output = folder / "output.txt"
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, "TMPDIR": str(self._temporary)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def shown(self) -> str:
        """What it printed so far."""
        return self._output.read_text()

    @property
    def last_words(self) -> str:
        """The end of that, for a message."""
        return self.shown[-_SHOWN_CHARACTERS:]

    def role(self, name: str) -> psutil.Process | None:
        """The process of one role, None while or if there is none."""
        if name == "launcher":
            return psutil.Process(self.process.pid)
        for process in self.living():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("RANK") == name.removeprefix("rank "):
                    return process
        return None

    def living(self) -> list[psutil.Process]:
        """Every process that came of the command and still lives, but the uploader, which is to outlive it."""
        return [process for process in self.all() if not _is_uploader(process)]

    def all(self) -> Iterator[psutil.Process]:
        """Every process that came of the command and still lives."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                is_ours = process.environ().get("TMPDIR") == str(self._temporary)
                if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    yield process

    def wait_until(self, is_reached: Callable[[], bool], limit_seconds: float = LIMIT_SECONDS) -> bool:
        """Waits; False if the command ended before.

        Raises:
            AssertionError: neither came in time.
        """
        deadline = time.monotonic() + limit_seconds
        while not is_reached():
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < deadline, f"hung:\n{self.last_words}"
            time.sleep(_POLL_SECONDS)
        return True

    def wait_until_gone(self, limit_seconds: float = LIMIT_SECONDS) -> float:
        """Waits until no process of the command is left and returns the seconds.

        Raises:
            AssertionError: some are left; they are killed.
        """
        start = time.monotonic()
        while self.process.poll() is None or self.living():
            if time.monotonic() > start + limit_seconds:
                orphans = [" ".join(process.cmdline()) for process in self.living()]
                self.kill_all()
                raise AssertionError(f"still there after {limit_seconds:.0f} s: {orphans}\n{self.last_words}")
            time.sleep(_POLL_SECONDS)
        return time.monotonic() - start

    def kill_all(self) -> None:
        """Kills every process of the command, the uploader too."""
        for process in self.all():
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.process.wait(LIMIT_SECONDS)


def recipe_exp_command(arguments: Sequence[str]) -> list[str]:
    """The one door, as people open it."""
    return [sys.executable, "-m", "recipe_exp", *arguments]


def plan_blows(seed: int, seconds: float, num_steps: int) -> list[Blow]:
    """Draws one to three blows: at any moment of the start, or of the training.

    Args:
        seed: decides everything.
        seconds: that an uninterrupted run takes.
        num_steps: of the run.
    """
    draw = random.Random(seed)
    blows = []
    for _ in range(draw.choice((1, 1, 2, 3))):
        role = draw.choice(ROLES)
        if draw.random() < 0.3:
            blows.append(Blow(role, None, draw.uniform(0.0, seconds)))
        else:
            blows.append(Blow(role, draw.randrange(3, num_steps, 3), draw.uniform(0.0, 0.5)))
    return blows


def strike(command: Sequence[str], folder: Path, blow: Blow | None) -> Fall:
    """Starts a command, strikes one of its processes, and waits until all of them are gone."""
    plain = PlainProcess(command, folder)
    try:
        was_struck = blow is not None and _wait_for(plain, blow) and _kill(plain, blow.role)
        seconds = plain.wait_until_gone()
        return Fall(plain.process.wait(), plain.shown, was_struck, seconds if was_struck else 0.0)
    finally:
        plain.kill_all()


def wait_for_uploaders(folder: Path, limit_seconds: float = 90.0) -> None:
    """Waits until nobody sends the journal of a run below a folder; every killed start may leave an uploader behind.

    Raises:
        AssertionError: one does not end.
    """
    deadline = time.monotonic() + limit_seconds
    while any(str(folder) in word for process in psutil.process_iter() for word in _words_of(process)):
        assert time.monotonic() < deadline, "an uploader does not end"
        time.sleep(_POLL_SECONDS)


def _words_of(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline() if _is_uploader(process) else []
    return []


def _wait_for(plain: PlainProcess, blow: Blow) -> bool:
    checkpoints = plain.folder / "outputs" / "runs"

    def is_reached() -> bool:
        return any(int(path.name[5:13]) >= (blow.at_step or 0) for path in checkpoints.glob("*/checkpoints/step-*"))

    if blow.at_step is not None and not plain.wait_until(is_reached):
        return False
    due = time.monotonic() + blow.after_seconds
    return plain.wait_until(lambda: time.monotonic() >= due and plain.role(blow.role) is not None)


def _kill(plain: PlainProcess, role: str) -> bool:
    process = plain.role(role)
    if process is None:
        return False
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGKILL)
        return True
    return False


def _is_uploader(process: psutil.Process) -> bool:
    return "recipe_exp.tracking.uploader" in process.cmdline()
