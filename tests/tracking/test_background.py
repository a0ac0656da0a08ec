from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from recipe_exp.tracking.background import Background

linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread is not nice by itself")
_CAP_SYS_NICE = 23


def niceness() -> int:
    """Of the calling thread."""
    return os.getpriority(os.PRIO_PROCESS, 0)


def may_become_less_nice() -> bool:
    status = Path("/proc/self/status").read_text()
    capabilities = int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff")), 16)
    limit, _ = resource.getrlimit(resource.RLIMIT_NICE)
    return bool(capabilities >> _CAP_SYS_NICE & 1) or limit >= 20 - niceness()


@linux
def test_work_stands_back_while_training_lives_and_not_after_it() -> None:
    own, is_over = niceness(), threading.Event()
    background = Background(is_over.is_set)
    assert background.do(niceness) == min(own + 10, 19)
    assert niceness() == own
    is_over.set()
    assert background.do(niceness) == own
    assert background.do(threading.get_ident) == threading.get_ident()


@linux
def test_what_is_under_way_when_training_ends_is_hastened_where_that_is_permitted() -> None:
    own, is_over = niceness(), threading.Event()
    background = Background(is_over.is_set)

    def outlive() -> int:
        is_over.set()
        deadline = time.monotonic() + 5
        while niceness() != own and time.monotonic() < deadline and may_become_less_nice():
            time.sleep(0.01)
        return niceness()

    assert background.do(outlive) == (own if may_become_less_nice() else min(own + 10, 19))


def test_errors_are_those_of_the_action_and_it_goes_on_after_them() -> None:
    background = Background(lambda: False)

    def fail() -> None:
        raise TimeoutError("of the action")

    with pytest.raises(TimeoutError, match="of the action"):
        background.do(fail)
    assert background.do(lambda: 3) == 3


def test_a_process_ends_although_a_call_hangs() -> None:
    code = (
        "import signal, sys, threading, time\n"
        "from recipe_exp.tracking.background import Background\n"
        "def leave(*_): raise SystemExit(5)\n"
        "signal.signal(signal.SIGALRM, leave)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.2)\n"
        "Background(lambda: False).do(lambda: time.sleep(60))\n"
    )
    started = time.monotonic()
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=50).returncode == 5
    assert time.monotonic() - started < 30
