"""Sends a run's journal to MLflow from a process of its own, so that training never waits for a tracker.

    python -m recipe_exp.tracking.uploader RUN_FOLDER --experiment NAME --parent-pid PID [--uri URI]

The process ends when the status with which training ended has been sent, or, if training died without one, when
everything it wrote has been sent; the run is then marked as interrupted. While a server is down it tries again,
for as long as training lives and ten minutes longer; `sync` sends what is left. In between it sends what the
uploaders of earlier runs left behind.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from recipe_exp.files import LockedError
from recipe_exp.secrets import RedactedStream, redact
from recipe_exp.tracking.background import Background
from recipe_exp.tracking.journal import mark_interrupted
from recipe_exp.tracking.launch import (
    HELD_SIGNALS,
    SENDING,
    SENT,
    UNSENT_EXIT_CODE,
    URI_VARIABLE,
    WAITING,
    UploaderHandle,
    start_uploader,
)
from recipe_exp.tracking.leftovers import send_leftovers
from recipe_exp.tracking.locations import default_uri
from recipe_exp.tracking.mlflow_store import MlflowStore, is_missing
from recipe_exp.tracking.run_folder import TERMINAL_STATUSES, RunFolder, is_alive, list_runs
from recipe_exp.tracking.sender import (
    Backlog,
    Call,
    is_final,
    open_run,
    sent_record_path,
    target_of,
)
from recipe_exp.tracking.sending_lock import ask_to_leave, sending
from recipe_exp.tracking.system_metrics import SystemSampler
from recipe_exp.tracking.training_process import TrainingProcess

__all__ = ["Uploader", "UploaderHandle", "main", "start_uploader"]

POLL_SECONDS = 2.0
MAX_BACKOFF_SECONDS = 30.0
GRACE_SECONDS = 600.0

_LEFTOVER_SECONDS = 60.0
_HURRIED_POLL_SECONDS = 0.2

_log = logging.getLogger("recipe_exp.uploader")

Result = TypeVar("Result")


class GaveUpError(Exception):
    """Training has ended and the server did not come back in time."""


class LostRunError(Exception):
    """The server no longer has the run."""


class Replaced(BaseException):
    """Another process wants to send the rest. Nothing catches it by accident, so that it ends the pending call."""


class Uploader:
    """Tails the journal and the system metrics of one run folder.

    Args:
        folder: the run folder.
        uri: MLflow tracking URI.
        experiment: name of the MLflow experiment.
        training: the process that writes the journal.
        journal_start: a status before this byte is from an earlier process and ends nothing.
        report: told `SENDING` or `WAITING` when the tracker begins or ceases to take what is sent.
        between: called once, the first time that there is nothing to send.
        do: does what takes time or talks to the tracker.
    """

    def __init__(
        self,
        folder: RunFolder,
        uri: str,
        experiment: str,
        training: TrainingProcess,
        journal_start: int,
        *,
        report: Callable[[bytes], None] = lambda _: None,
        between: Callable[[], None] = lambda: None,
        do: Callable[[Callable[[], Any]], Any] = lambda action: action(),
    ) -> None:
        self._folder = folder
        self._uri = uri
        self._experiment = experiment
        self._training = training
        self._journal_start = journal_start
        self._report = report
        self._between = between
        self._do = do
        self._was_idle = False
        self._give_up_at: float | None = None
        self._is_asked_to_end = False

    def end_soon(self, *_: Any) -> None:
        """Leave the rest to another process, but not before training is over; a signal handler.

        Raises:
            Replaced: training is over.
        """
        self._is_asked_to_end = True
        if self._training.is_over():
            raise Replaced

    def run(self) -> None:
        """Send until training has ended.

        Raises:
            GaveUpError: training has ended but the server cannot be reached.
        """
        while True:
            try:
                self._open()
                self._send_until_end()
            except LostRunError:
                _log.warning("the server lost the run; sending everything again")
                sent_record_path(self._folder).unlink(missing_ok=True)
            else:
                return

    def _open(self) -> None:
        if self._uri.startswith(("http://", "https://")):
            self._report(WAITING)
        self._store = self._persist(self._open_store)
        self._report(SENDING)
        self._run = self._persist(partial(open_run, self._store, self._folder))
        target = target_of(self._store.public_uri, self._store.experiment_id, self._run.run_id)
        self._backlog = self._do(partial(Backlog, self._folder, target, self._journal_start))

    def _open_store(self) -> MlflowStore:
        return MlflowStore.open(self._uri, self._experiment, self._folder.output_dir)

    def _send_until_end(self) -> None:
        while True:
            # Asked before reading: what a process wrote before it died is read after it is known to be dead.
            is_alive_still = self._training.is_alive()
            if self._send_available():
                continue
            if self._backlog.has_ended:
                break
            if not is_alive_still and not self._close_for_dead_process():
                break
            if self._training.is_over():
                if self._is_asked_to_end:
                    raise GaveUpError("asked to end")
                self._training.wait(_HURRIED_POLL_SECONDS)
            elif not self._was_idle:
                self._was_idle = True
                self._do(self._between)
            else:
                self._training.wait(POLL_SECONDS)

    def _send_available(self) -> bool:
        """Send the next events; False if there are none."""
        calls = self._backlog.calls()
        if calls is None:
            return False
        for call in calls:
            self._deliver(call)
        self._backlog.remember()
        return True

    def _deliver(self, call: Call) -> None:
        attempts = 0

        def send() -> None:
            nonlocal attempts
            attempts += 1
            try:
                call(self._run)
            except Exception as error:
                if is_missing(error) and self._store.find_run(self._folder.run_id) != self._run.run_id:
                    raise LostRunError from error
                if not is_final(error, attempts):
                    raise
                self._backlog.sender.counts.num_refused += 1
                _log.warning("refused for good: %s", redact(str(error)))

        self._persist(send)

    def _persist(self, action: Callable[[], Result]) -> Result:
        """Do `action` until it succeeds, however long the server is down while training lives."""
        delay = 0.5
        num_failures = 0
        while True:
            try:
                result: Result = self._do(action)
            except LostRunError:
                raise
            except Exception as error:
                num_failures += 1
                if num_failures == 1:
                    _log.warning("cannot send, trying again: %s", redact(str(error)))
                    self._report(WAITING)
                self._check_patience(error)
                self._training.wait(delay)
                delay = min(2 * delay, MAX_BACKOFF_SECONDS)
            else:
                if num_failures:
                    _log.warning("sending again after %d failures", num_failures)
                    self._report(SENDING)
                return result

    def _check_patience(self, error: Exception) -> None:
        if not self._training.is_over():
            return
        if self._is_asked_to_end:
            raise GaveUpError("asked to end") from error
        # Without a server the folder itself still tells the truth.
        with contextlib.suppress(OSError):
            mark_interrupted(self._folder)
        now = time.monotonic()
        self._give_up_at = self._give_up_at or now + GRACE_SECONDS
        if now >= self._give_up_at:
            raise GaveUpError("training has ended and the server cannot be reached") from error

    def _close_for_dead_process(self) -> bool:
        """Give a run that was killed its true status, unless another process goes on with it.

        Returns:
            Whether the journal now has an end that is still to be sent.
        """
        if self._backlog.status in TERMINAL_STATUSES or is_alive(self._folder):
            return False
        size = self._folder.journal_path.stat().st_size
        try:
            mark_interrupted(self._folder)
        except OSError:
            # A folder that cannot be written is no reason to call the run alive.
            self._persist(partial(self._run.set_status, "interrupted", time.time()))
        return self._folder.journal_path.stat().st_size > size


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the uploader; 0 when everything was sent, 3 when something was not."""
    parsed = _parse(arguments)
    # Libraries log too, and a server may repeat what it was sent.
    sys.stderr = RedactedStream(sys.stderr)
    # Ctrl-C goes to every process of the terminal; training decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # In UTC like run ids, and quiet unless something is wrong.
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    folder = RunFolder.open(parsed.folder)
    uri = parsed.uri or os.environ.pop(URI_VARIABLE, None) or default_uri(folder.output_dir)
    training = TrainingProcess(parsed.parent_pid)
    leftovers = _Leftovers(folder, uri, training)
    uploader = Uploader(
        folder,
        uri,
        parsed.experiment,
        training,
        parsed.journal_start,
        report=partial(_report, parsed.report_to),
        between=leftovers.send_some,
        do=Background(training.is_over).do,
    )
    signal.signal(signal.SIGTERM, uploader.end_soon)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS)
    try:
        with _sampling(parsed, folder, training), _only_uploader(folder, training):
            uploader.run()
    except GaveUpError as error:
        _log.error("%s; `python -m recipe_exp task=sync` sends the rest", error)
        return UNSENT_EXIT_CODE
    except Replaced:
        return UNSENT_EXIT_CODE
    _report(parsed.report_to, SENT)
    with contextlib.suppress(Replaced):
        leftovers.send_rest()
    return 0


class _Leftovers:
    """What earlier uploaders left, sent while this one has nothing else to do, or after it has ended."""

    def __init__(self, folder: RunFolder, uri: str, training: TrainingProcess) -> None:
        self._folder = folder
        self._uri = uri
        self._training = training
        self._is_done = False

    def send_some(self) -> None:
        self._is_done = send_leftovers(list_runs(self._folder.output_dir), self._uri, stop=self._training.is_over)

    def send_rest(self) -> None:
        if not self._is_done:
            deadline = time.monotonic() + _LEFTOVER_SECONDS
            folders = list_runs(self._folder.output_dir)
            send_leftovers(folders, self._uri, stop=lambda: time.monotonic() > deadline)


def _report(descriptor: int | None, state: bytes) -> None:
    if descriptor is not None:
        with contextlib.suppress(OSError):  # training is gone
            os.write(descriptor, state)


@contextlib.contextmanager
def _sampling(parsed: argparse.Namespace, folder: RunFolder, training: TrainingProcess) -> Iterator[None]:
    if not parsed.system_metrics:
        yield
        return
    created = float(folder.read_record().get("created", time.time()))
    sampler = SystemSampler(folder.system_path, parsed.parent_pid, created, is_over=training.is_over)
    sampler.start()
    try:
        yield
    finally:
        sampler.stop()


@contextlib.contextmanager
def _only_uploader(folder: RunFolder, training: TrainingProcess) -> Iterator[None]:
    """Ask the uploader of an earlier process to leave, and wait for it."""
    with contextlib.ExitStack() as stack:
        timeout_seconds = 0.5
        while True:
            was_over = training.is_over()
            try:
                stack.enter_context(sending(folder, timeout_seconds))
                break
            except LockedError:
                if was_over and timeout_seconds == GRACE_SECONDS:
                    raise GaveUpError("another uploader of this run does not end") from None
                ask_to_leave(folder)
                timeout_seconds = GRACE_SECONDS
        yield


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m recipe_exp.tracking.uploader")
    parser.add_argument("folder", type=Path, help="run folder whose journal is sent")
    parser.add_argument("--uri", help=f"tracking URI; default: ${URI_VARIABLE}, or the default database")
    parser.add_argument("--experiment", required=True, help="name of the MLflow experiment")
    parser.add_argument("--parent-pid", type=int, required=True, help="the process that writes the journal")
    parser.add_argument("--journal-start", type=int, default=0, help="size of the journal when it started")
    parser.add_argument("--system-metrics", action="store_true", help="sample CPU, memory and GPU use")
    parser.add_argument("--report-to", type=int, help="file descriptor for the state of the upload")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
