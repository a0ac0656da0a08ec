"""Locks and writes that survive a kill or a full disk: what run folders, checkpoints and caches are made of."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import re
import shutil
import stat
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Error numbers of a write that finds no room: on the disk, in a quota, or below a limit of file sizes."""
DISK_FAULTS = FULL_DISK | {errno.EROFS, errno.EIO, errno.ESTALE}
"""Error numbers that speak of the disk and not of the program."""

_LOCK_POLL_SECONDS = 0.02
_READ_BYTES = 2**20
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

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
    except BaseException as error:
        aside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise
    flush_to_disk(path.parent)


def remove_stale_temporaries(folder: Path) -> None:
    """Remove what `write_atomically` left in `folder` when its process was killed; the files of living ones stay."""
    for path in folder.glob(".*.tmp*"):
        process_id = path.name.split(".")[-2]
        if process_id.isdecimal() and not is_process_alive(int(process_id)):
            with contextlib.suppress(OSError):
                path.unlink()


def boot_id() -> str:
    """What tells this start of this machine from every other one, in its containers too; empty where it is unknown."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def is_process_alive(process_id: int) -> bool:
    """Whether a process of this machine has this id."""
    try:
        os.kill(process_id, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def write_result(path: Path, content: bytes) -> None:
    """Write to a path that a user chose: like `write_atomically`, but through a link and into a pipe or device."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        path.write_bytes(content)
    else:
        write_atomically(path, content)


def append_whole(path: Path, content: bytes) -> None:
    """Append `content` to `path`, made when absent, and to the disk; what fails leaves the file as it was."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        remaining = memoryview(content)
        try:
            while remaining:
                remaining = remaining[os.write(descriptor, remaining) :]
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)


def read_regular_file(path: Path, max_bytes: int) -> bytes:
    """The content of a file that somebody else wrote; neither a device nor a pipe nor its size can hold the reader up.

    Raises:
        OSError: it is no regular file, holds more than `max_bytes`, or cannot be read; its `strerror` says which.
    """
    # Asked before it is opened, since opening a device may do something.
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "is no regular file", str(path))
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as stream:  # noqa: PTH123 - a path may be another file by now
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "is no regular file", str(path))
        # A read reserves all that it may get.
        content = bytearray()
        while part := stream.read(min(_READ_BYTES, max_bytes + 1 - len(content))):
            content += part
            if len(content) > max_bytes:
                raise OSError(errno.EFBIG, f"is larger than {size_text(max_bytes)}", str(path))
    return bytes(content)


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


def free_bytes(path: Path) -> int | None:
    """What may be written on the disk of `path`, which need not exist; None where the file system does not say.

    A quota or a limit of file sizes may leave less.
    """
    existing = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    usage = shutil.disk_usage(existing)
    return usage.free if usage.total > 0 else None


def reason_of(error: Exception) -> str:
    """Why a file could not be read or written, in the system's words; an error from outside Python may hide them."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    number = re.search(r"\(os error (\d+)\)", str(error))
    return os.strerror(int(number[1])) if number else " ".join(str(error).split())


def size_text(num_bytes: float) -> str:
    """Bytes as MiB below one GiB and as GiB above."""
    mib = num_bytes / 1024**2
    if mib >= 1024:
        return f"{mib / 1024:,.1f} GiB"
    return f"{mib:,.1f} MiB" if 0 < mib < 10 else f"{mib:,.0f} MiB"


@contextlib.contextmanager
def printing_on_full_disk() -> Iterator[None]:
    """Let printing go on where standard output or error is a file on a full disk: what finds no room is dropped.

    A run whose output is sent to a file would otherwise end with its first line that does not fit.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _patient(sys.stdout), _patient(sys.stderr)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def _patient(stream: Any) -> Any:
    try:
        descriptor = stream.fileno()
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
    except (AttributeError, OSError, ValueError):  # somebody took its place, such as a notebook
        return stream
    if not is_file:
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_PatientFile(descriptor, "w", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=True,
    )


class _PatientFile(io.FileIO):
    """A file that passes over what a full disk refuses."""

    def write(self, content: Any) -> int:
        try:
            return super().write(content)
        except OSError as error:
            if error.errno not in FULL_DISK:
                raise
            return memoryview(content).nbytes
