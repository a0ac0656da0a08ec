"""Sends a run's journal to MLflow from a process of its own, so that training never waits for a tracker.

    python -m recipe_exp.tracking.uploader RUN_FOLDER --experiment NAME --parent-pid PID [--uri URI]

The process ends when the status with which training ended has been sent, or, if training died without one, when
everything it wrote has been sent; the run is then marked as interrupted. While a server is down it tries again,
for as long as training lives and ten minutes longer; `sync` sends what is left.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from recipe_exp.files import LockedError, file_lock
from recipe_exp.tracking.events import Event, EventTail, SeenSteps, StatusChange, metric_points
from recipe_exp.tracking.launch import HELD_SIGNALS, URI_VARIABLE, UploaderHandle, start_uploader
from recipe_exp.tracking.mlflow_store import MlflowRun, MlflowStore, is_missing, is_refusal
from recipe_exp.tracking.redaction import redact
from recipe_exp.tracking.run_folder import TERMINAL_STATUSES, RunFolder, is_alive, mark_interrupted
from recipe_exp.tracking.sender import (
    Call,
    Sender,
    SentRecord,
    open_run,
    sent_record_path,
    uploader_lock_path,
)
from recipe_exp.tracking.system_metrics import SystemSampler

__all__ = ["Uploader", "UploaderHandle", "main", "start_uploader"]

POLL_SECONDS = 2.0
MAX_BACKOFF_SECONDS = 30.0
GRACE_SECONDS = 600.0
UNSENT_EXIT_CODE = 3

_HURRIED_POLL_SECONDS = 0.2
_HURRIED_BACKOFF_SECONDS = 2.0
_NICENESS = 10

_log = logging.getLogger("recipe_exp.uploader")

Result = TypeVar("Result")


class GaveUpError(Exception):
    """Training has ended and the server did not come back in time."""


class LostRunError(Exception):
    """The server no longer has the run."""


class _Parent:
    """The process whose journal is sent; a process id that another process got later is not it."""

    def __init__(self, process_id: int) -> None:
        import psutil

        self._psutil = psutil
        try:
            self._process = psutil.Process(process_id)
        except psutil.NoSuchProcess:
            self._process = None

    def is_alive(self) -> bool:
        try:
            if self._process is None or not self._process.is_running():
                return False
            return bool(self._process.status() != self._psutil.STATUS_ZOMBIE)
        except self._psutil.NoSuchProcess:
            return False


class _Pace:
    """Waits between looks at the journal, shorter once training has asked for it or has ended."""

    def __init__(self) -> None:
        self.is_hurried = False
        self.is_asked_to_end = False

    def wait(self, seconds: float) -> None:
        if self.is_hurried or sys.stdin is None:
            time.sleep(min(seconds, _HURRIED_BACKOFF_SECONDS))
            return
        readable, _, _ = select.select([sys.stdin], [], [], seconds)
        # A line or the end of standard input: `finish` was called, or training died.
        self.is_hurried = bool(readable)

    def poll(self) -> None:
        self.wait(_HURRIED_POLL_SECONDS if self.is_hurried else POLL_SECONDS)


class Uploader:
    """Tails the journal and the system metrics of one run folder.

    Args:
        folder: the run folder.
        uri: MLflow tracking URI; None uses the default database.
        experiment: name of the MLflow experiment.
        parent: the process that writes the journal.
        journal_start: a status before this byte is from an earlier process and ends nothing.
    """

    def __init__(
        self, folder: RunFolder, uri: str | None, experiment: str, parent: _Parent, journal_start: int
    ) -> None:
        self._folder = folder
        self._uri = uri
        self._experiment = experiment
        self._parent = parent
        self._journal_start = journal_start
        self._pace = _Pace()
        self._give_up_at: float | None = None
        self._status = "running"
        self._has_ended = False

    def end_soon(self, *_: Any) -> None:
        """Send what is written, then end; a signal handler."""
        self._pace.is_hurried = self._pace.is_asked_to_end = True

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
        store, run = self._persist(self._open_run)
        self._store: MlflowStore = store
        self._run: MlflowRun = run
        target = f"{store.public_uri} {store.experiment_id} {run.run_id}"
        self._sent = SentRecord.load(sent_record_path(self._folder), target)
        self._journal = EventTail(self._folder.journal_path)
        self._system = EventTail(self._folder.system_path)
        self._sender = Sender(self._folder, self._pass_over_sent(), self._sent)

    def _open_run(self) -> tuple[MlflowStore, MlflowRun]:
        store = MlflowStore.open(self._uri, self._experiment, self._folder.output_dir)
        return store, open_run(store, self._folder)

    def _pass_over_sent(self) -> SeenSteps:
        """What an earlier process sent, so that it is not sent again after a rewind."""
        seen = SeenSteps()
        while self._journal.offset < self._sent.journal_offset:
            before = self._journal.offset
            for _ in metric_points(self._read_journal(self._sent.journal_offset), seen):
                pass
            if self._journal.offset == before:
                break
        # Samples of the machine are never computed again, so nothing needs to be remembered of them.
        self._system.offset = self._sent.system_offset
        return seen

    def _read_journal(self, end: int | None = None) -> list[Event]:
        """The next events, at most up to byte `end`; takes note of the status they leave the run in."""
        is_history = self._journal.offset < self._journal_start
        if is_history:
            end = min(self._journal_start, end or self._journal_start)
        events = self._journal.read(end)
        for event in events:
            if isinstance(event, StatusChange):
                self._status = event.status
                self._has_ended = event.status in TERMINAL_STATUSES and not is_history
        return events

    def _send_until_end(self) -> None:
        while True:
            # Asked before reading: what a process wrote before it died is read after it is known to be dead.
            parent_is_alive = self._parent.is_alive()
            if self._send_available():
                continue
            if self._has_ended:
                break
            if not parent_is_alive:
                self._close_for_dead_parent()
                break
            if self._pace.is_asked_to_end:
                raise GaveUpError("asked to end")
            self._pace.poll()
        self._link_parent()

    def _send_available(self) -> bool:
        """Send the next events; False if there are none."""
        offsets = self._journal.offset, self._system.offset
        events = [*self._system.read(), *self._read_journal()]
        for call in self._sender.calls(events):
            self._persist(partial(self._send, call))
        if offsets == (self._journal.offset, self._system.offset):
            return False
        self._sent.journal_offset, self._sent.system_offset = self._journal.offset, self._system.offset
        with contextlib.suppress(OSError):  # without it a restart sends again, which stores nothing twice
            self._sent.save(sent_record_path(self._folder))
        return True

    def _send(self, call: Call) -> None:
        try:
            call(self._run)
        except Exception as error:
            if is_missing(error) and self._store.find_run(self._folder.run_id) != self._run.run_id:
                raise LostRunError from error
            if not is_refusal(error):
                raise
            self._sender.counts.num_refused += 1
            _log.warning("refused for good: %s", redact(str(error)))

    def _persist(self, action: Callable[[], Result]) -> Result:
        """Do `action` until it succeeds, however long the server is down while training lives."""
        delay = 0.5
        num_failures = 0
        while True:
            try:
                result = action()
            except LostRunError:
                raise
            except Exception as error:
                num_failures += 1
                if num_failures == 1:
                    _log.warning("cannot send, trying again: %s", redact(str(error)))
                self._check_patience(error)
                self._pace.wait(delay)
                delay = min(2 * delay, MAX_BACKOFF_SECONDS)
            else:
                if num_failures:
                    _log.warning("sending again after %d failures", num_failures)
                return result

    def _check_patience(self, error: Exception) -> None:
        if self._pace.is_asked_to_end:
            raise GaveUpError("asked to end") from error
        if self._parent.is_alive():
            return
        # Without a server the folder itself still tells the truth.
        mark_interrupted(self._folder)
        now = time.monotonic()
        self._give_up_at = self._give_up_at or now + GRACE_SECONDS
        if now >= self._give_up_at:
            raise GaveUpError("training has ended and the server cannot be reached") from error

    def _close_for_dead_parent(self) -> None:
        """Give a run that was killed its true status, unless another process goes on with it."""
        if self._status in TERMINAL_STATUSES or is_alive(self._folder):
            return
        mark_interrupted(self._folder)
        self._persist(partial(self._run.set_status, "interrupted", time.time()))

    def _link_parent(self) -> None:
        """Make the run a child of its sweep, which may not have been known to MLflow at the start."""
        parent_run_id = self._folder.read_record().get("parent_run_id")
        if parent_run_id is not None and self._run.parent_id is None:
            mlflow_run_id = self._persist(partial(self._store.find_run, parent_run_id))
            self._persist(partial(self._run.set_parent, mlflow_run_id))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the uploader; 0 when everything was sent, 3 when something was not."""
    parsed = _parse(arguments)
    # Ctrl-C goes to every process of the terminal; training decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # In UTC like run ids, and quiet unless something is wrong.
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    with contextlib.suppress(OSError):
        os.nice(_NICENESS)
    folder = RunFolder.open(parsed.folder)
    uri = parsed.uri or os.environ.pop(URI_VARIABLE, None)
    parent = _Parent(parsed.parent_pid)
    uploader = Uploader(folder, uri, parsed.experiment, parent, parsed.journal_start)
    signal.signal(signal.SIGTERM, uploader.end_soon)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS)
    try:
        with _sampling(parsed, folder), _only_uploader(folder, parent):
            uploader.run()
    except GaveUpError as error:
        _log.error("%s; `python -m recipe_exp task=sync` sends the rest", error)
        return UNSENT_EXIT_CODE
    return 0


@contextlib.contextmanager
def _sampling(parsed: argparse.Namespace, folder: RunFolder) -> Iterator[None]:
    if not parsed.system_metrics:
        yield
        return
    created = float(folder.read_record().get("created", time.time()))
    sampler = SystemSampler(folder.system_path, parsed.parent_pid, created)
    sampler.start()
    try:
        yield
    finally:
        sampler.stop()


@contextlib.contextmanager
def _only_uploader(folder: RunFolder, parent: _Parent) -> Iterator[None]:
    """Wait for the uploader of an earlier process, which may still be sending what that process left."""
    with contextlib.ExitStack() as stack:
        while True:
            parent_was_alive = parent.is_alive()
            try:
                stack.enter_context(file_lock(uploader_lock_path(folder), timeout_seconds=GRACE_SECONDS))
                break
            except LockedError:
                if not parent_was_alive:
                    raise GaveUpError("another uploader of this run does not end") from None
        yield


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m recipe_exp.tracking.uploader")
    parser.add_argument("folder", type=Path, help="run folder whose journal is sent")
    parser.add_argument("--uri", help=f"tracking URI; default: ${URI_VARIABLE}, or the default database")
    parser.add_argument("--experiment", required=True, help="name of the MLflow experiment")
    parser.add_argument("--parent-pid", type=int, required=True, help="the process that writes the journal")
    parser.add_argument("--journal-start", type=int, default=0, help="size of the journal when it started")
    parser.add_argument("--system-metrics", action="store_true", help="sample CPU, memory and GPU use")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
