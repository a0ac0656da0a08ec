from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recipe_exp.files import (
    LockedError,
    append_whole,
    file_lock,
    free_bytes,
    is_locked,
    read_regular_file,
    remove_stale_temporaries,
    size_text,
    write_atomically,
    write_result,
)


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


def test_a_result_goes_through_links_and_into_pipes(tmp_path: Path) -> None:
    plain, link, pipe = tmp_path / "plain", tmp_path / "link", tmp_path / "pipe"
    write_result(plain, b"first")
    link.symlink_to(plain)
    write_result(link, b"second")
    assert (plain.read_bytes(), link.is_symlink()) == (b"second", True)
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_result(pipe, b"third")
    assert os.read(reader, 99) == b"third"
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_line_is_appended_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    append_whole(path, b"first\n")
    append_whole(path, b"second\n")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limit[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            append_whole(path, b"a line that has no room\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_bytes() == b"first\nsecond\n"


def test_room_is_asked_of_the_disk_of_a_folder_that_is_not_there_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert free_bytes(tmp_path / "a" / "b") == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.2)
    # Some network file systems know no sizes.
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(0, 0, 0))  # type: ignore[attr-defined]
    assert free_bytes(tmp_path) is None


def test_bytes_are_shown_in_units_that_are_read_easily() -> None:
    gib = 1024**3
    shown = [size_text(n) for n in (0, 0.0023 * gib, 500 * 1024**2, 1.5 * gib, 2000 * gib)]
    assert shown == ["0 MiB", "2.4 MiB", "500 MiB", "1.5 GiB", "2,000.0 GiB"]


@pytest.mark.parametrize("flags", [[], ["-u"]])
def test_printing_into_a_file_goes_on_when_its_disk_is_full(tmp_path: Path, flags: list[str]) -> None:
    script = (
        "import resource, sys\n"
        "from recipe_exp.files import printing_on_full_disk\n"
        "print('before')\n"
        "with printing_on_full_disk():\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (20, resource.RLIM_INFINITY))\n"
        "    for number in range(5000):\n"
        "        print('line', number)\n"
        "        print('line', number, file=sys.stderr)\n"
        "sys.exit(7)\n"
    )
    out, err = tmp_path / "out", tmp_path / "err"
    with out.open("w") as stdout, err.open("w") as stderr:
        command = [sys.executable, *flags, "-c", script]
        code = subprocess.run(command, stdout=stdout, stderr=stderr, check=False).returncode
    assert code == 7
    assert out.read_text().startswith("before\nline 0\n")
    assert err.read_text().startswith("line 0\n")
    assert out.stat().st_size == err.stat().st_size == 20


def test_what_a_killed_write_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        dead = process.pid
    stale, living = tmp_path / f".run.json.{dead}.tmp", tmp_path / f".run.json.{os.getpid()}.tmp"
    others = [tmp_path / name for name in (".notes.tmp", f"run.json.{dead}.tmp", f".run.json.{dead}.tmp.old")]
    for path in (stale, living, *others):
        path.write_text("x")
    remove_stale_temporaries(tmp_path)
    assert set(tmp_path.iterdir()) == {living, *others}


def test_regular_file_is_read_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 100)
    (tmp_path / "link").symlink_to(file)
    os.mkfifo(tmp_path / "pipe")
    assert read_regular_file(file, 100) == read_regular_file(tmp_path / "link", 100) == b"x" * 100
    with pytest.raises(OSError, match="is larger than"):
        read_regular_file(file, 99)
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match="is no regular file"):
            read_regular_file(path, 100)
    with pytest.raises(FileNotFoundError):
        read_regular_file(tmp_path / "none", 100)
