"""Runs that ended before all of them was sent: the rest goes to where they were being sent.

A power cut ends training and its uploader at once, and the tracker calls such a run running for ever; so does a run
whose uploader gave up on a server that was down.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from recipe_exp.config import yaml_file
from recipe_exp.errors import RecipeExpError
from recipe_exp.files import LockedError
from recipe_exp.secrets import redact, strip_credentials
from recipe_exp.tracking.locations import sqlite_path
from recipe_exp.tracking.mlflow_store import MlflowRun, MlflowStore
from recipe_exp.tracking.run_folder import TERMINAL_STATUSES, RunFolder
from recipe_exp.tracking.sender import (
    Backlog,
    Call,
    SentRecord,
    is_final,
    place_of,
    sent_record_path,
    target_of,
    uploader_log_path,
)
from recipe_exp.tracking.sending_lock import sending

_log = logging.getLogger("recipe_exp.uploader")


def is_tracked(folder: RunFolder) -> bool:
    """Whether the run was to be sent to a tracker."""
    try:
        config = yaml_file.parse(yaml_file.read_text(folder.config_path), folder.config_path)
        return bool(config["tracking"]["enabled"])
    except (RecipeExpError, TypeError, KeyError):
        # A sweep has no configuration of its own; only an uploader leaves a log.
        return uploader_log_path(folder).exists()


def send_leftovers(folders: Iterable[RunFolder], uri: str, stop: Callable[[], bool] = lambda: False) -> bool:
    """Send what is left of the runs that ended on this machine, each to the place that its `run.json` names.

    A server that fails is not asked again, and nothing is created on one that no longer knows a run.

    Args:
        folders: of the runs; those that have nothing left are passed over.
        uri: used in place of the same URI without credentials, and of a database file that is gone.
        stop: asked between two runs.

    Returns:
        Whether all were looked at.
    """
    failed: set[str] = set()
    for folder, place in _leftovers(folders):
        if stop():
            return False
        known_as = str(place["uri"])
        if known_as in failed:
            continue
        try:
            with sending(folder, timeout_seconds=0.0):
                _send_rest(folder, place, _present_uri(known_as, uri))
        except LockedError:
            continue
        except Exception as error:
            failed.add(known_as)
            _log.warning("what is left of %s cannot be sent: %s", folder.path.name, redact(str(error)))
    return True


def _leftovers(folders: Iterable[RunFolder]) -> Iterator[tuple[RunFolder, dict[str, Any]]]:
    for folder in folders:
        # A damaged record must not cost the run that goes on anything.
        with contextlib.suppress(RecipeExpError, OSError, ValueError, TypeError, KeyError):
            record = folder.read_record()
            place = record.get("mlflow") or {}
            has_ended = record.get("status") in TERMINAL_STATUSES and record.get("host") == socket.gethostname()
            if has_ended and place and is_tracked(folder) and _num_unsent_bytes(folder, place) > 0:
                yield folder, place


def _num_unsent_bytes(folder: RunFolder, place: dict[str, Any]) -> int:
    target = target_of(place["uri"], place["experiment_id"], place["run_id"])
    return folder.journal_path.stat().st_size - SentRecord.load(sent_record_path(folder), target).journal_offset


def _present_uri(known_as: str, own: str) -> str:
    database = sqlite_path(known_as)
    is_gone = database is not None and not database.exists()
    return own if is_gone or known_as == strip_credentials(own) else known_as


def _send_rest(folder: RunFolder, place: dict[str, Any], uri: str) -> None:
    store = MlflowStore.reopen(uri, str(place["experiment_id"]), folder.output_dir)
    run = store.open_run(folder.run_id)
    mlflow_run_id = run.run_id if run is not None else str(place["run_id"])
    backlog = Backlog(folder, target_of(store.public_uri, store.experiment_id, mlflow_run_id))
    present = place_of(store, mlflow_run_id)
    if present != place:
        folder.update_record(mlflow=present)
    while (calls := backlog.calls()) is not None:
        # What a server no longer knows is passed over once and for all; `sync` sends it from the beginning.
        for call in calls:
            if run is not None:
                _deliver(call, run)
        backlog.remember()


def _deliver(call: Call, run: MlflowRun) -> None:
    try:
        call(run)
    except Exception as error:
        if not is_final(error, num_attempts=1):
            raise
        _log.warning("refused for good: %s", redact(str(error)))
