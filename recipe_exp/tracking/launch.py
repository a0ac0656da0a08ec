"""Starting the uploader's process from training, and waiting for it at the end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from recipe_exp.tracking.mlflow_store import ENVIRONMENT
from recipe_exp.tracking.redaction import strip_credentials
from recipe_exp.tracking.run_folder import RunFolder

URI_VARIABLE = "RECIPE_EXP_TRACKING_URI"
HELD_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_MODULE = "recipe_exp.tracking.uploader"


@dataclass
class UploaderHandle:
    """The uploader's process, seen from training."""

    process: subprocess.Popen[bytes]

    def finish(self, timeout_seconds: float) -> bool:
        """Wait until everything is sent, at most for `timeout_seconds`; the journal must have ended.

        Returns:
            False if something is unsent: the process goes on trying by itself, and `sync` can send it later.
        """
        self._hurry()
        try:
            return self.process.wait(timeout_seconds) == 0
        except subprocess.TimeoutExpired:
            return False

    def _hurry(self) -> None:
        stream = self.process.stdin
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.write(b"\n")
                stream.close()


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
    command = [sys.executable, "-m", _MODULE, str(folder.path), "--experiment", experiment]
    command += ["--parent-pid", str(os.getpid()), "--journal-start", str(start)]
    environment = _child_environment()
    if uri is not None and strip_credentials(uri) == uri:
        command += ["--uri", uri]
    elif uri is not None:
        # A command line can be read by every user of the machine, an environment cannot.
        environment[URI_VARIABLE] = uri
    if system_metrics:
        command.append("--system-metrics")
    with (folder.path / "uploader.log").open("ab") as log, _signals_held_back():
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
            cwd=folder.path,
            start_new_session=True,
        )
    return UploaderHandle(process)


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """Block `HELD_SIGNALS` for a process started inside, until it has its handlers; here they wait."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _child_environment() -> dict[str, str]:
    # The package may run from a checkout that is not installed.
    roots = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        **ENVIRONMENT,
        "PYTHONPATH": os.pathsep.join(root for root in roots if root),
        "OMP_NUM_THREADS": "1",
    }
