"""Who sends a folder's journal: one process at a time, and one that tries in vain leaves it to the next."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

from recipe_exp.files import file_lock
from recipe_exp.tracking.run_folder import RunFolder

UPLOADER_MODULE = "recipe_exp.tracking.uploader"


def uploader_lock_path(folder: RunFolder) -> Path:
    """The lock of whoever sends the folder's journal."""
    return folder.path / "uploader.lock"


@contextlib.contextmanager
def sending(folder: RunFolder, timeout_seconds: float) -> Iterator[None]:
    """Be the one process that sends the folder's journal, and leave a note saying which.

    Raises:
        LockedError: another process is, for longer than the timeout.
    """
    with file_lock(uploader_lock_path(folder), timeout_seconds=timeout_seconds) as stream:
        stream.truncate(0)
        stream.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        stream.flush()
        yield


def ask_to_leave(folder: RunFolder, number: signal.Signals = signal.SIGTERM) -> bool:
    """Ask the uploader at work to leave the rest to another process; it does once the training that it serves is over.

    Args:
        folder: of the run.
        number: SIGTERM asks; SIGKILL ends one that does not hear, which harms nothing.

    Returns:
        Whether there is an uploader of this folder on this machine.
    """
    process_id = _uploader_at_work(folder)
    if process_id is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(process_id, number)
    return True


def _uploader_at_work(folder: RunFolder) -> int | None:
    """The process id in the lock's note, if that process is what the note says."""
    import psutil

    try:
        holder = json.loads(uploader_lock_path(folder).read_bytes())
        process_id = int(holder["pid"])
        words = psutil.Process(process_id).cmdline()
        is_uploader = holder["host"] == socket.gethostname() and UPLOADER_MODULE in words and str(folder.path) in words
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return None
    return process_id if is_uploader else None
