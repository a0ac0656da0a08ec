"""Sends what a tracking server lacks of a run folder, which may come from another machine."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from recipe_exp.errors import RecipeExpError, TrackingError
from recipe_exp.files import LockedError, file_lock
from recipe_exp.tracking.events import Event, Status, StatusChange, read_events
from recipe_exp.tracking.mlflow_store import MlflowRun, MlflowStore, is_refusal
from recipe_exp.tracking.redaction import redact, strip_credentials
from recipe_exp.tracking.run_folder import RunFolder, is_alive, mark_interrupted
from recipe_exp.tracking.sender import (
    Sender,
    SentRecord,
    open_run,
    sent_record_path,
    uploader_lock_path,
)

_CHUNK = 2000


@dataclass(frozen=True)
class SyncReport:
    """What `sync` sent.

    Attributes:
        mlflow_run_id: MLflow's id of the run.
        num_metrics: metric values that the server lacked.
        num_artifacts: files that were sent to it.
        num_refused: metric values, files or other events that the server will not take, or that are gone.
        refusals: the first few reasons.
    """

    mlflow_run_id: str
    num_metrics: int
    num_artifacts: int
    num_refused: int
    refusals: tuple[str, ...]


def sync(folder: RunFolder, uri: str | None, experiment: str) -> SyncReport:
    """Send what is missing; doing it again sends nothing.

    Args:
        folder: the run folder; its run is found on the server by our run id.
        uri: MLflow tracking URI; None uses the database under the folder's `output_dir`.
        experiment: name of the MLflow experiment.

    Raises:
        TrackingError: the server cannot be reached, or the run's own uploader is at work.
    """
    try:
        with file_lock(uploader_lock_path(folder), timeout_seconds=1.0):
            return _sync(folder, uri, experiment)
    except LockedError as error:
        raise TrackingError(f"{folder.path}: its uploader is at work; sync after it has ended") from error
    except RecipeExpError:
        raise
    except Exception as error:
        place = strip_credentials(uri) if uri else "the default database"
        raise TrackingError(
            f"tracking.uri={place}: cannot be sent to ({_first_line(error)}); what was sent is kept, try again"
        ) from error


def _sync(folder: RunFolder, uri: str | None, experiment: str) -> SyncReport:
    store = MlflowStore.open(uri, experiment, folder.output_dir)
    run = open_run(store, folder)
    target = f"{store.public_uri} {store.experiment_id} {run.run_id}"
    sent = SentRecord.load(sent_record_path(folder), target)
    sender = Sender(folder, run.stored_steps(), sent)
    refusals: list[str] = []
    for events in _chunks(folder):
        for call in sender.calls(events):
            try:
                call(run)
            except Exception as error:
                if not is_refusal(error):
                    raise
                sender.counts.num_refused += 1
                refusals.append(_first_line(error))
    _settle_status(folder, run)
    sent.journal_offset = folder.journal_path.stat().st_size if folder.journal_path.exists() else 0
    sent.system_offset = folder.system_path.stat().st_size if folder.system_path.exists() else 0
    sent.save(sent_record_path(folder))
    counts = sender.counts
    return SyncReport(run.run_id, counts.num_metrics, counts.num_artifacts, counts.num_refused, tuple(refusals[:5]))


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


def _settle_status(folder: RunFolder, run: MlflowRun) -> None:
    status: Status = "running"
    time = float(folder.read_record().get("created", 0.0))
    for event in read_events(folder.journal_path):
        time = event.time
        if isinstance(event, StatusChange):
            status = event.status
    runs_elsewhere = folder.read_record().get("host") != socket.gethostname()
    if status == "running" and not runs_elsewhere and not is_alive(folder):
        with contextlib.suppress(OSError):  # a folder that cannot be written is sent all the same
            mark_interrupted(folder)
        status = "interrupted"
    run.set_status(status, time)


def _first_line(error: Exception) -> str:
    return redact(next(iter(str(error).splitlines()), type(error).__name__))
