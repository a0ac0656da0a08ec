"""The record of a run: its folder, its journal, and the process that sends it to MLflow.

Importing this package loads neither MLflow nor psutil nor apprise; only the uploader's process, the notifier's, `sync`
and the interface do.
"""

from __future__ import annotations

from recipe_exp.tracking import notices
from recipe_exp.tracking.events import MetricPoint, Status, metric_points, read_events
from recipe_exp.tracking.finding import find_run
from recipe_exp.tracking.journal import Journal, mark_interrupted
from recipe_exp.tracking.launch import UploaderHandle, start_uploader
from recipe_exp.tracking.leftovers import is_tracked, send_leftovers
from recipe_exp.tracking.locations import default_uri, relocate
from recipe_exp.tracking.notices import Progress
from recipe_exp.tracking.notifier import Message, Notifier, address_mistakes
from recipe_exp.tracking.provenance import collect_provenance, named_facts, provenance_changes
from recipe_exp.tracking.pruning import PRUNING_VARIABLE, answer_trial, pruning_folder, pruning_question
from recipe_exp.tracking.run_folder import (
    PARENT_RUN_ID_VARIABLE,
    TRIAL_VARIABLE,
    RunFolder,
    RunKind,
    is_abandoned,
    is_alive,
    list_runs,
    remove_unbegun,
)
from recipe_exp.tracking.sync import SyncReport, sync
from recipe_exp.tracking.ui import serve_ui, ui_command

__all__ = [
    "PARENT_RUN_ID_VARIABLE",
    "PRUNING_VARIABLE",
    "TRIAL_VARIABLE",
    "Journal",
    "Message",
    "MetricPoint",
    "Notifier",
    "Progress",
    "RunFolder",
    "RunKind",
    "Status",
    "SyncReport",
    "UploaderHandle",
    "address_mistakes",
    "answer_trial",
    "collect_provenance",
    "default_uri",
    "find_run",
    "is_abandoned",
    "is_alive",
    "is_tracked",
    "list_runs",
    "mark_interrupted",
    "metric_points",
    "named_facts",
    "notices",
    "provenance_changes",
    "pruning_folder",
    "pruning_question",
    "read_events",
    "relocate",
    "remove_unbegun",
    "send_leftovers",
    "serve_ui",
    "start_uploader",
    "sync",
    "ui_command",
]
