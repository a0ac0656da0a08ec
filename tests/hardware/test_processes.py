from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from recipe_exp.hardware import processes
from recipe_exp.hardware.processes import is_main_process, is_worker, run_processes


def command(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", f"import os, sys, time; rank = int(os.environ['RANK']); {code}", *map(str, arguments)]


def test_every_process_knows_its_place(tmp_path: Path) -> None:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    code = f"open(sys.argv[1] + f'/{{rank}}', 'w').write(' '.join(os.environ[n] for n in {names}))"
    assert run_processes(command(code, tmp_path), 3) == 0
    found = [(tmp_path / str(rank)).read_text().split() for rank in range(3)]
    assert [place[:5] for place in found] == [[str(rank), str(rank), "3", "3", "127.0.0.1"] for rank in range(3)]
    assert len({place[5] for place in found}) == 1


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("sys.exit(0)", 0),
        ("sys.exit(2 if rank == 1 else 0)", 2),
        ("sys.exit(143)", 143),
        ("sys.exit(130)", 130),
        ("os.kill(os.getpid(), 9) if rank == 1 else None", 137),
        # The one that fails ends the other, whose code must not hide its own.
        ("sys.exit(2) if rank == 1 else time.sleep(60)", 2),
    ],
)
def test_the_exit_code_is_that_of_the_failure(code: str, expected: int) -> None:
    started = time.monotonic()
    assert run_processes(command(code), 2) == expected
    assert time.monotonic() - started < 20


def test_a_process_that_does_not_end_when_told_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.5)
    code = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "(time.sleep(0.5), sys.exit(3)) if rank == 0 else time.sleep(60)"
    )
    started = time.monotonic()
    assert run_processes(command(code), 2) == 3
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_every_process_once(tmp_path: Path, number: signal.Signals) -> None:
    code = (
        "import signal; seen = []; "
        f"signal.signal({int(number)}, lambda *_: seen.append(1)); "
        "open(sys.argv[1] + f'/ready-{rank}', 'w').close(); "
        "deadline = time.monotonic() + 30; "
        "exec('while not seen and time.monotonic() < deadline: time.sleep(0.01)'); time.sleep(0.2); "
        "open(sys.argv[1] + f'/{rank}', 'w').write(str(len(seen)))"
    )
    before = signal.getsignal(number)

    def interrupt() -> None:
        while not all((tmp_path / f"ready-{rank}").exists() for rank in range(2)):
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt).start()
    assert run_processes(command(code, tmp_path), 2) == 0
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == ["1", "1"]
    assert signal.getsignal(number) == before


def test_a_process_knows_whether_it_is_one_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert (is_worker(), is_main_process()) == (False, True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert (is_worker(), is_main_process()) == (True, True)
    monkeypatch.setenv("RANK", "1")
    assert (is_worker(), is_main_process()) == (True, False)


STUCK_WORKER = """
import ctypes, signal
from recipe_exp import signals
from recipe_exp.hardware import processes
processes.ORPHAN_SECONDS = 2
processes.end_when_orphaned()
mutex, libc = ctypes.create_string_buffer(64), ctypes.CDLL(None)
libc.pthread_mutex_lock(mutex)
with signals.raising():
    print("ready", flush=True)
    libc.pthread_mutex_lock(mutex)
"""
LAUNCHER = """
import os, subprocess, sys
from recipe_exp.signals import ended_with_parent
worker = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, preexec_fn=ended_with_parent())
worker.stdout.readline()
print(worker.pid, flush=True)
worker.wait()
"""


def test_a_worker_that_waits_in_vain_ends_after_its_launcher() -> None:
    command = [sys.executable, "-c", LAUNCHER, STUCK_WORKER]
    launcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    worker = psutil.Process(int(launcher.stdout.readline()))
    launcher.kill()
    launcher.wait()
    time.sleep(1)
    assert worker.is_running()  # it was told to end, and cannot hear it
    psutil.wait_procs([worker], timeout=20)
    assert not worker.is_running()
