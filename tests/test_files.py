from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from recipe_exp.files import LockedError, file_lock, is_locked, write_atomically


def test_a_lock_excludes_other_holders_and_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_locked(path)
    with file_lock(path):
        assert is_locked(path)
        with pytest.raises(LockedError), file_lock(path, timeout_seconds=0.05):
            pass
    assert not is_locked(path)
    with file_lock(path, timeout_seconds=0.0):
        pass


def _hold_with_a_forked_child(path: Path, ready: Path) -> None:
    with file_lock(path):
        child = os.fork()
        if child == 0:
            ready.write_text(str(os.getpid()))
            time.sleep(30)
            os._exit(0)
        time.sleep(30)


def test_a_lock_dies_with_its_holder_even_if_a_forked_worker_lives_on(tmp_path: Path) -> None:
    path, ready = tmp_path / "lock", tmp_path / "ready"
    holder = multiprocessing.get_context("fork").Process(target=_hold_with_a_forked_child, args=(path, ready))
    holder.start()
    while not ready.exists() or not ready.read_text():
        time.sleep(0.01)
    assert is_locked(path)
    holder.kill()
    holder.join()
    try:
        os.kill(int(ready.read_text()), 0)
        assert not is_locked(path)
    finally:
        os.kill(int(ready.read_text()), signal.SIGKILL)


def test_a_failed_write_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"other")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
