"""Training's hold on its uploader, with small programs in the uploader's place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from recipe_exp.tracking import UploaderHandle, launch

REPORT = "import os, sys, time\nreport = lambda state: os.write(int(sys.argv[1]), state)\n"
READ_A_LINE = "sys.stdin.readline()\n"


def start(*programs: str, seen: list[int] | None = None) -> UploaderHandle:
    """A handle whose processes run the programs, one after the other, the last one for ever."""
    left = list(programs)

    def start_process(reports_to: int) -> subprocess.Popen[bytes]:
        program = left.pop(0) if len(left) > 1 else left[0]
        command = [sys.executable, "-c", REPORT + program, str(reports_to)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[reports_to])
        if seen is not None:
            seen.append(process.pid)
        return process

    return UploaderHandle(start_process)


@pytest.fixture
def quick_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_RESTART_DELAYS_SECONDS", (0.0, 0.0, 0.0))


def test_everything_sent_is_known_before_the_process_leaves() -> None:
    handle = start(READ_A_LINE + "report(b'd')\ntime.sleep(60)")
    started = time.monotonic()
    assert handle.finish(30)
    assert time.monotonic() - started < 20
    assert handle.process_id is not None
    os.kill(handle.process_id, signal.SIGKILL)


def test_an_end_without_everything_sent_is_told(quick_restarts: None) -> None:
    seen: list[int] = []
    assert not start(READ_A_LINE + "sys.exit(3)", seen=seen).finish(30)
    assert len(seen) == 1


def test_a_killed_process_is_started_again_while_training_goes_on(quick_restarts: None) -> None:
    seen: list[int] = []
    handle = start("os.kill(os.getpid(), 9)", "sys.exit(1)", READ_A_LINE + "report(b'd')", seen=seen)
    deadline = time.monotonic() + 30
    while len(seen) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert handle.process_id == seen[-1]
    assert handle.finish(30)
    assert len(seen) == 3


def test_a_process_that_was_killed_shortly_before_the_end_is_started_again_at_the_end() -> None:
    seen: list[int] = []
    handle = start("os.kill(os.getpid(), 9)", READ_A_LINE + "report(b'd')", seen=seen)
    assert handle.finish(30)
    assert len(seen) == 2


def test_what_always_dies_is_not_started_for_ever(quick_restarts: None) -> None:
    seen: list[int] = []
    assert not start("sys.exit(1)", seen=seen).finish(60)
    assert len(seen) <= 4


def test_a_process_that_cannot_be_started_is_no_error_of_training(quick_restarts: None) -> None:
    def refuse(_: int) -> subprocess.Popen[bytes]:
        raise OSError(12, "Cannot allocate memory")

    assert not UploaderHandle(refuse).finish(30)


def test_a_tracker_that_does_not_answer_is_left_after_five_seconds() -> None:
    handle = start("report(b'w')\ntime.sleep(60)")
    time.sleep(0.5)
    started = time.monotonic()
    assert not handle.finish(60)
    assert 4.5 < time.monotonic() - started < 12
    assert handle.process_id is not None
    os.kill(handle.process_id, signal.SIGKILL)


def test_a_tracker_that_answers_again_is_waited_for() -> None:
    assert start("report(b'w')\ntime.sleep(1)\nreport(b's')\ntime.sleep(4)\nreport(b'd')").finish(60)


def test_the_wait_has_a_limit() -> None:
    handle = start("report(b's')\ntime.sleep(60)")
    started = time.monotonic()
    assert not handle.finish(0.5)
    assert time.monotonic() - started < 5
    assert handle.process_id is not None
    os.kill(handle.process_id, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_wait_and_nothing_else(number: signal.Signals) -> None:
    handle = start("report(b's')\ntime.sleep(60)")
    before = signal.getsignal(number)
    threading.Timer(0.5, os.kill, (os.getpid(), number)).start()
    started = time.monotonic()
    assert not handle.finish(60)
    assert time.monotonic() - started < 10
    assert signal.getsignal(number) == before
    assert handle.process_id is not None
    os.kill(handle.process_id, signal.SIGKILL)


def test_a_wait_in_another_thread_is_one_too() -> None:
    handle = start(READ_A_LINE + "report(b'd')")
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(handle.finish(30)))
    thread.start()
    thread.join(60)
    assert results == [True]
