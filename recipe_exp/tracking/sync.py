"""Sends what a tracking server lacks of a run folder, which may come from another machine."""

from __future__ import annotations

import contextlib
import errno
import signal
from collections.abc import Iterator
from dataclasses import dataclass

from recipe_exp.errors import RecipeExpError, TrackingError
from recipe_exp.files import LockedError
from recipe_exp.secrets import redact, strip_credentials
from recipe_exp.tracking.events import Event, Status, StatusChange, read_events
from recipe_exp.tracking.journal import mark_interrupted
from recipe_exp.tracking.mlflow_store import MlflowRun, MlflowStore, is_doubtful
from recipe_exp.tracking.run_folder import RunFolder, is_alive
from recipe_exp.tracking.sender import (
    Call,
    Sender,
    SentRecord,
    is_final,
    open_run,
    sent_record_path,
    target_of,
)
from recipe_exp.tracking.sending_lock import ask_to_leave, sending

_CHUNK = 2000
_NUM_SHOWN_REFUSALS = 5
_SECONDS_TO_END = 15.0


@dataclass(frozen=True)
class SyncReport:
    """What `sync` sent.

    Attributes:
        mlflow_run_id: MLflow's id of the run.
        status: the run's status, on the server too.
        num_metrics: metric values that the server lacked.
        num_artifacts: files that were sent to it.
        num_refused: metric values, files or other events that the server will not take, or that are gone.
        refusals: the first few reasons.
    """

    mlflow_run_id: str
    status: Status
    num_metrics: int
    num_artifacts: int
    num_refused: int
    refusals: tuple[str, ...]


def sync(folder: RunFolder, uri: str | None, experiment: str, max_upload_bytes: int = 0) -> SyncReport:
    """Send what is missing; doing it again sends nothing.

    An uploader that still tries to send the run after its end is asked to leave the rest to this process.

    Args:
        folder: the run folder; its run is found on the server by our run id.
        uri: MLflow tracking URI; None uses the database under the folder's `output_dir`.
        experiment: name of the MLflow experiment.
        max_upload_bytes: artifacts up to this size are sent even if the run wanted to send smaller ones only.

    Raises:
        TrackingError: the server cannot be reached, or the run is going on and its uploader is at work.
    """
    try:
        with _place_of_uploader(folder):
            return _sync(folder, uri, experiment, max_upload_bytes)
    except RecipeExpError:
        raise
    except Exception as error:
        place = strip_credentials(uri) if uri else "the default database"
        raise TrackingError(
            f"tracking.uri={place}: cannot be sent to ({_first_line(error)}); what was sent is kept, try again"
        ) from error


@contextlib.contextmanager
def _place_of_uploader(folder: RunFolder) -> Iterator[None]:
    """Be the one process that sends the folder's journal.

    Raises:
        TrackingError: another process is, and must not be disturbed.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(sending(folder, timeout_seconds=1.0))
        except LockedError:
            _end_idle_uploader(folder, signal.SIGTERM)
            try:
                stack.enter_context(sending(folder, timeout_seconds=_SECONDS_TO_END))
            except LockedError:
                # It may be stuck in the database's library; whatever it does can be interrupted and repeated.
                _end_idle_uploader(folder, signal.SIGKILL)
                stack.enter_context(sending(folder, timeout_seconds=_SECONDS_TO_END))
        except OSError as error:
            # No uploader of its own is at work in a folder that cannot be written.
            if error.errno not in (errno.EROFS, errno.EACCES):
                raise
        yield


def _end_idle_uploader(folder: RunFolder, number: signal.Signals) -> None:
    """Send a signal to the uploader of a run, if the run has ended.

    Raises:
        TrackingError: the run is going on, or the lock is held by something else or on another machine.
    """
    if is_alive(folder):
        raise TrackingError(f"{folder.path}: is going on, and its own uploader sends it; sync after it has ended")
    if not ask_to_leave(folder, number):
        raise TrackingError(f"{folder.path}: another process is sending it; sync after that has ended")


def _sync(folder: RunFolder, uri: str | None, experiment: str, max_upload_bytes: int) -> SyncReport:
    with contextlib.suppress(OSError):  # a folder that cannot be written is sent all the same
        mark_interrupted(folder)
    store = MlflowStore.open(uri, experiment, folder.output_dir)
    run = open_run(store, folder)
    sent = SentRecord.load(sent_record_path(folder), target_of(store.public_uri, store.experiment_id, run.run_id))
    sender = Sender(folder, run.stored_steps(), sent, max_upload_bytes)
    refusals: list[str] = []
    for events in _chunks(folder):
        for call in sender.calls(events):
            refusal = _deliver(call, run)
            if refusal is not None:
                sender.counts.num_refused += 1
                refusals.append(refusal)
    status = _settle_status(folder, run)
    sent.journal_offset = folder.journal_path.stat().st_size if folder.journal_path.exists() else 0
    sent.system_offset = folder.system_path.stat().st_size if folder.system_path.exists() else 0
    with contextlib.suppress(OSError):
        sent.save(sent_record_path(folder))
    counts = sender.counts
    shown = tuple(refusals[:_NUM_SHOWN_REFUSALS])
    return SyncReport(run.run_id, status, counts.num_metrics, counts.num_artifacts, counts.num_refused, shown)


def _deliver(call: Call, run: MlflowRun) -> str | None:
    """Make a call; returns why the server will never take it, if so."""
    num_attempts = 0
    while True:
        num_attempts += 1
        try:
            call(run)
        except Exception as error:
            if is_final(error, num_attempts):
                return _first_line(error)
            if not is_doubtful(error):
                raise
        else:
            return None


def _chunks(folder: RunFolder) -> Iterator[list[Event]]:
    for path in (folder.journal_path, folder.system_path):
        chunk: list[Event] = []
        for event in read_events(path):
            # Statuses of the past would reopen and end the run again; the last one is set at the end.
            if not isinstance(event, StatusChange):
                chunk.append(event)
            if len(chunk) == _CHUNK:
                yield chunk
                chunk = []
        yield chunk


def _settle_status(folder: RunFolder, run: MlflowRun) -> Status:
    status: Status = "running"
    time = float(folder.read_record().get("created", 0.0))
    for event in read_events(folder.journal_path):
        time = event.time
        if isinstance(event, StatusChange):
            status = event.status
    run.set_status(status, time)
    return status


def _first_line(error: Exception) -> str:
    return redact(next(iter(str(error).splitlines()), type(error).__name__))
