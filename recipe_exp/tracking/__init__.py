"""The record of a run: its folder, its journal, and the process that sends it to MLflow.

Importing this package loads neither MLflow nor psutil; only the uploader's process, `sync` and the interface do.
"""

from __future__ import annotations

from recipe_exp.tracking.events import MetricPoint, Status, metric_points, read_events
from recipe_exp.tracking.journal import Journal
from recipe_exp.tracking.launch import UploaderHandle, start_uploader
from recipe_exp.tracking.locations import default_uri, relocate
from recipe_exp.tracking.provenance import collect_provenance
from recipe_exp.tracking.redaction import redact
from recipe_exp.tracking.run_folder import (
    PARENT_RUN_ID_VARIABLE,
    RunFolder,
    RunKind,
    find_run,
    is_alive,
    list_runs,
    mark_interrupted,
)
from recipe_exp.tracking.sync import SyncReport, sync
from recipe_exp.tracking.ui import serve_ui, ui_command

__all__ = [
    "PARENT_RUN_ID_VARIABLE",
    "Journal",
    "MetricPoint",
    "RunFolder",
    "RunKind",
    "Status",
    "SyncReport",
    "UploaderHandle",
    "collect_provenance",
    "default_uri",
    "find_run",
    "is_alive",
    "list_runs",
    "mark_interrupted",
    "metric_points",
    "read_events",
    "redact",
    "relocate",
    "serve_ui",
    "start_uploader",
    "sync",
    "ui_command",
]
