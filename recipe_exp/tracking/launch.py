"""Starting the uploader's process from training, keeping it alive, and waiting for it at the end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from recipe_exp import signals
from recipe_exp.secrets import strip_credentials
from recipe_exp.tracking.mlflow_store import ENVIRONMENT
from recipe_exp.tracking.run_folder import RunFolder
from recipe_exp.tracking.sender import uploader_log_path
from recipe_exp.tracking.sending_lock import UPLOADER_MODULE

URI_VARIABLE = "RECIPE_EXP_TRACKING_URI"
HELD_SIGNALS = (signal.SIGINT, signal.SIGTERM)

SENDING, WAITING, SENT = b"s", b"w", b"d"
"""What an uploader reports: the tracker takes what is sent; it does not; it has everything."""
UNSENT_EXIT_CODE = 3

_RESTART_DELAYS_SECONDS = (1.0, 30.0, 60.0, 300.0, 600.0)
_PATIENCE_SECONDS = 5.0
_LOOK_SECONDS = 0.05

Start = Callable[[int], "subprocess.Popen[bytes]"]


class UploaderHandle:
    """The uploader's process, seen from training.

    A thread that does nothing but wait starts it again when something kills it, such as a lack of memory; what it had
    not sent by then is in the journal.

    Args:
        start: starts a process that reports to the file descriptor it is given.

    Attributes:
        process_id: of the present process; None if it could not be started.
    """

    def __init__(self, start: Start) -> None:
        self._start = start
        self._lock = threading.Lock()
        self._training_is_over = threading.Event()
        self._is_settled = threading.Event()
        self._is_sent = False
        self._waiting_since: float | None = None
        self._launch()
        threading.Thread(target=self._keep_alive, name="uploader", daemon=True).start()

    def finish(self, timeout_seconds: float) -> bool:
        """Wait until everything is sent; the journal must have ended.

        The wait ends early where the tracker does not answer or refuses to, and with a signal such as that of Ctrl-C,
        which then does nothing else.

        Args:
            timeout_seconds: longest wait.

        Returns:
            False if something is unsent: the process goes on trying by itself, and `sync` can send it later.
        """
        with self._lock:
            self._training_is_over.set()
            self._hurry()
        was_signalled = threading.Event()
        started = time.monotonic()
        with signals.handling(lambda _number: was_signalled.set()):
            while not self._is_settled.wait(_LOOK_SECONDS):
                now = time.monotonic()
                is_unanswered = self._waiting_since is not None and (
                    now - max(self._waiting_since, started) >= _PATIENCE_SECONDS
                )
                if was_signalled.is_set() or is_unanswered or now - started >= timeout_seconds:
                    return False
        return self._is_sent

    def _launch(self) -> None:
        """Start a process; one that cannot be started counts as one that was killed."""
        self._process: subprocess.Popen[bytes] | None = None
        self._reports, reports_to = os.pipe()
        try:
            self._process = self._start(reports_to)
        except OSError:
            pass
        finally:
            os.close(reports_to)
        self.process_id = self._process.pid if self._process is not None else None

    def _hurry(self) -> None:
        stream = self._process.stdin if self._process is not None else None
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.write(b"\n")
                stream.close()

    def _keep_alive(self) -> None:
        for delay in _RESTART_DELAYS_SECONDS:
            self._listen()
            exit_code = self._process.wait() if self._process is not None else None
            if self._is_sent or exit_code in (0, UNSENT_EXIT_CODE):
                break
            self._training_is_over.wait(delay)
            with self._lock:
                self._launch()
                if self._training_is_over.is_set():
                    self._hurry()
        self._is_settled.set()

    def _listen(self) -> None:
        """Take note of what the process reports until it ends."""
        while report := os.read(self._reports, 1024):
            last = report[-1:]
            if last == WAITING and self._waiting_since is None:
                self._waiting_since = time.monotonic()
            elif last != WAITING:
                self._waiting_since = None
            if last == SENT:
                self._is_sent = True
                self._is_settled.set()
        os.close(self._reports)


def start_uploader(folder: RunFolder, uri: str | None, experiment: str, system_metrics: bool) -> UploaderHandle:
    """Start the process that sends what this process writes into the folder's journal.

    Args:
        folder: the run folder.
        uri: MLflow tracking URI; None uses the database under the folder's `output_dir`.
        experiment: name of the MLflow experiment.
        system_metrics: whether to sample the use of CPU, memory and GPUs.
    """
    journal = folder.journal_path
    # What is in the journal now was written by earlier processes; a status among it ends nothing.
    start = journal.stat().st_size if journal.exists() else 0
    command = [sys.executable, "-m", UPLOADER_MODULE, str(folder.path), "--experiment", experiment]
    command += ["--parent-pid", str(os.getpid()), "--journal-start", str(start)]
    environment = child_environment()
    if uri is not None and strip_credentials(uri) == uri:
        command += ["--uri", uri]
    elif uri is not None:
        # A command line can be read by every user of the machine, an environment cannot.
        environment[URI_VARIABLE] = uri
    if system_metrics:
        command.append("--system-metrics")

    def start_process(reports_to: int) -> subprocess.Popen[bytes]:
        with uploader_log_path(folder).open("ab") as log, _signals_held_back():
            return subprocess.Popen(
                [*command, "--report-to", str(reports_to)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=folder.path,
                start_new_session=True,
                pass_fds=[reports_to],
            )

    return UploaderHandle(start_process)


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """Block `HELD_SIGNALS` for a process started inside, until it has its handlers; here they wait."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def child_environment() -> dict[str, str]:
    """The environment of a process that runs a module of this package beside training."""
    # The package may run from a checkout that is not installed.
    roots = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        **ENVIRONMENT,
        "PYTHONPATH": os.pathsep.join(root for root in roots if root),
        "OMP_NUM_THREADS": "1",
    }
