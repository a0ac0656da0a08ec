"""Locks and writes that survive a kill: what run folders, checkpoints and caches are made of."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_LOCK_POLL_SECONDS = 0.02

_held_locks: weakref.WeakSet[IO[bytes]] = weakref.WeakSet()


def _drop_inherited_locks() -> None:
    """Close the lock files that a forked child inherited, which would outlive the parent's death in it."""
    for stream in list(_held_locks):
        with contextlib.suppress(OSError):
            os.close(stream.fileno())


os.register_at_fork(after_in_child=_drop_inherited_locks)


class LockedError(OSError):
    """Another process holds the lock."""


@contextlib.contextmanager
def file_lock(path: Path, *, timeout_seconds: float | None = None) -> Iterator[IO[bytes]]:
    """Hold an exclusive `flock` on `path`, which the kernel releases when the process dies.

    Args:
        path: the lock file; created when absent and never removed, since removing it would split the lock.
        timeout_seconds: longest wait; None waits for ever.

    Yields:
        The open lock file, in which the holder may leave a note.

    Raises:
        LockedError: another process kept the lock for longer than the timeout.
    """
    with path.open("a+b") as stream:
        _wait_for_lock(stream, path, timeout_seconds)
        _held_locks.add(stream)
        try:
            yield stream
        finally:
            _held_locks.discard(stream)
            fcntl.flock(stream, fcntl.LOCK_UN)


def _wait_for_lock(stream: IO[bytes], path: Path, timeout_seconds: float | None) -> None:
    if timeout_seconds is None:
        fcntl.flock(stream, fcntl.LOCK_EX)
        return
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise LockedError(f"{path} is locked by another process") from None
            time.sleep(_LOCK_POLL_SECONDS)
        else:
            return


def is_locked(path: Path) -> bool:
    """Whether some process holds `file_lock` on `path`; False when the file does not exist."""
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        return False
    with stream:
        try:
            # A shared lock needs no write permission, so a folder of another user can be asked too.
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(stream, fcntl.LOCK_UN)
        return False


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content`: whatever happens, a reader finds the old file or the whole of the other."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    flush_to_disk(path.parent)


def flush_to_disk(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk and survives a power cut.

    Raises:
        OSError: the disk refused a file's content. Some network file systems refuse folders, which is passed over: the
            names themselves are set.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
