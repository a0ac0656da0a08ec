from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from recipe_exp.signals import ENDING_SIGNALS, Interrupted, ended_with_parent, handling, raising


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)])
def test_a_signal_raises_where_the_program_stands(number: signal.Signals, exit_code: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught, raising():
        signal.raise_signal(number)
    assert caught.value.exit_code == exit_code
    assert isinstance(caught.value, KeyboardInterrupt), "what handles Ctrl-C handles every interruption"
    assert signal.getsignal(number) == before


def test_a_second_signal_leaves_at_once() -> None:
    code = (
        "import signal\nfrom recipe_exp.signals import raising\nwith raising():\n    try:\n"
        "        signal.raise_signal(signal.SIGINT)\n    finally:\n        signal.raise_signal(signal.SIGTERM)\n"
        "        print('still here')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "")


def test_handlers_of_another_thread_are_not_touched() -> None:
    before = {number: signal.getsignal(number) for number in ENDING_SIGNALS}
    inside: list[bool] = []

    def run() -> None:
        with handling(lambda _number: None), raising():
            inside.append({number: signal.getsignal(number) for number in ENDING_SIGNALS} == before)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert inside == [True]


def test_a_child_is_told_when_its_parent_was_killed() -> None:
    """The parent is killed without a word; its child gets SIGTERM and says so."""
    child = (
        "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: (print('told', flush=True), sys.exit()))\n"
        "print('ready', flush=True)\ntime.sleep(60)\n"
    )
    parent = (
        "import subprocess, sys, time\nfrom recipe_exp.signals import ended_with_parent\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}], preexec_fn=ended_with_parent())\ntime.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        started = time.monotonic()
        os.kill(process.pid, signal.SIGKILL)
        assert process.stdout.readline() == "told\n"
        assert time.monotonic() - started < 10


def test_a_parent_that_died_before_the_child_could_ask_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = ended_with_parent()
    ends: list[int] = []
    monkeypatch.setattr(os, "getppid", lambda: -1)
    monkeypatch.setattr(os, "_exit", ends.append)
    monkeypatch.setattr("recipe_exp.signals._LIBC", type("Libc", (), {"prctl": staticmethod(lambda *_: 0)}))
    ask()
    assert ends == [143]
