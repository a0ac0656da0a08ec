"""Which processes work on a sweep, on this machine and on others that share its folder."""

from __future__ import annotations

import os
import secrets
import socket
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType

from recipe_exp.files import file_lock, is_locked

BEAT_SECONDS = 10.0
SILENT_SECONDS = 600.0
"""A process of another machine that has not been heard of for so long is taken for dead."""


class Presence:
    """This process among those that work on a sweep: a file that it holds locked and touches now and then.

    On this machine the lock says whether a process lives. Locks of another one may not reach here, so there it counts
    by the age of its file, in the clock of the disk that both share.

    Args:
        folder: of the sweep.
        mark: ends the name; drawn at random without one.

    Attributes:
        name: what the ledger calls the process.
    """

    def __init__(self, folder: Path, mark: str | None = None) -> None:
        self._folder = folder / "processes"
        host = "".join(letter if letter.isalnum() else "-" for letter in socket.gethostname())
        self._host = f"{host}."
        self.name = f"{self._host}{os.getpid()}.{mark or secrets.token_hex(2)}"
        self._path = self._folder / self.name
        self._beaten = 0.0
        self._held = ExitStack()

    def __enter__(self) -> Presence:
        self._folder.mkdir(exist_ok=True)
        self._held.enter_context(file_lock(self._path))
        self.beat()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._path.unlink()
        self._held.close()

    def beat(self) -> None:
        """Shows other machines that this process lives; cheap enough to be called often."""
        if time.monotonic() - self._beaten >= BEAT_SECONDS:
            self._beaten = time.monotonic()
            with suppress(OSError):
                self._path.touch()

    def has_others(self, mark: str) -> bool:
        """Returns whether another process of this mark lives."""
        names = (path.name for path in self._folder.glob(f"*.{mark}"))
        return any(name != self.name and self.is_alive(name) for name in names)

    def is_alive(self, name: str | None) -> bool:
        """Returns whether the process that a ledger calls `name` lives; this one does."""
        if name is None or name == self.name:
            return name is not None
        path = self._folder / name
        if name.startswith(self._host):
            return is_locked(path)
        try:
            return self._path.stat().st_mtime - path.stat().st_mtime < SILENT_SECONDS
        except FileNotFoundError:
            return False
