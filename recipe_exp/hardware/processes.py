"""Starting the data-parallel processes of one run, and being one of them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from recipe_exp.errors import ExitCode
from recipe_exp.signals import ended_with_parent, handling

POLL_SECONDS = 0.1
GRACE_SECONDS = 30.0
ORPHAN_SECONDS = 20
_LAUNCHER_POLL_SECONDS = 1.0
_ORDERLY_ENDS = (ExitCode.FINISHED, ExitCode.UNFINISHED, ExitCode.SIGINT, ExitCode.SIGTERM)


def end_when_orphaned() -> None:
    """Ends this process once its launcher is gone and its main thread has not moved for `ORPHAN_SECONDS`.

    A worker whose launcher was killed is told to stop by the kernel, and does so after its step. Where it waits for
    others that are gone too, as before the first step, Python never gets to hear of it.
    """
    threading.Thread(target=_watch_launcher, args=(os.getppid(),), name="launcher-watch", daemon=True).start()


def _watch_launcher(launcher_id: int) -> None:
    while os.getppid() == launcher_id:
        time.sleep(_LAUNCHER_POLL_SECONDS)
    position = None
    while True:
        frame = sys._current_frames().get(threading.main_thread().ident or 0)
        present = (id(frame), frame.f_lasti) if frame is not None else None
        if present != position:
            # The kernel's clock ends the process even where a hanging thread holds the interpreter's lock.
            signal.alarm(ORPHAN_SECONDS)
        position = present
        del frame
        time.sleep(_LAUNCHER_POLL_SECONDS)


def is_worker() -> bool:
    """Returns whether this process was started as one of several, by `run_processes` or by torchrun."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def is_main_process() -> bool:
    """Returns whether this process is the one of its run that writes files."""
    return os.environ.get("RANK", "0") == "0"


def run_processes(command: Sequence[str], num_processes: int) -> int:
    """Runs a command in `num_processes` processes that find each other as under torchrun.

    Ending signals are passed on, so that all stop after the same step. When one process fails, the others are
    terminated within `GRACE_SECONDS`. When this process dies, the kernel tells the others to stop.

    Returns:
        The exit code of the process that failed first, else of one that was interrupted, else 0.
    """
    port = _free_port()
    workers: list[subprocess.Popen[bytes]] = []
    came_early: list[int] = []

    def forward(number: int) -> None:
        if not workers:
            came_early.append(number)
            return
        for worker in workers:
            worker.send_signal(number)

    with handling(forward):
        workers += [_start(command, rank, num_processes, port) for rank in range(num_processes)]
        for number in came_early:
            forward(number)
        return _wait(workers)


def _start(command: Sequence[str], rank: int, num_processes: int, port: int) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num_processes),
        "LOCAL_WORLD_SIZE": str(num_processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    # A session of its own keeps the terminal's Ctrl-C from reaching a worker twice.
    return subprocess.Popen(command, env=environment, start_new_session=True, preexec_fn=ended_with_parent())


def _wait(workers: Sequence[subprocess.Popen[bytes]]) -> int:
    deadline: float | None = None
    failure: int | None = None
    while any(worker.poll() is None for worker in workers):
        failure = failure or _failure_of(workers)
        if failure is not None and deadline is None:
            deadline = time.monotonic() + GRACE_SECONDS
            for worker in workers:
                if worker.poll() is None:
                    worker.terminate()
        # The main process ends last; whoever is still there a good while later hangs.
        if deadline is None and workers[0].poll() is not None:
            deadline = time.monotonic() + GRACE_SECONDS
        if deadline is not None and time.monotonic() > deadline:
            for worker in workers:
                worker.kill()
        time.sleep(POLL_SECONDS)
    # Those that are terminated after a failure end like interrupted ones, which would hide its code.
    code = failure or _failure_of(workers) or next((worker.returncode for worker in workers if worker.returncode), 0)
    return code if code >= 0 else 128 - code


def _failure_of(workers: Sequence[subprocess.Popen[bytes]]) -> int | None:
    codes = (worker.poll() for worker in workers)
    return next((code for code in codes if code not in (None, *_ORDERLY_ENDS)), None)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
