"""Everything that talks to MLflow, which is imported when a store is opened and not before."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from recipe_exp.errors import TrackingError
from recipe_exp.secrets import redact, strip_credentials
from recipe_exp.tracking.database import create_database
from recipe_exp.tracking.events import DatasetUse, MetricPoint, SeenSteps, Status
from recipe_exp.tracking.locations import (
    artifact_root,
    database_lock,
    default_uri,
    local_folder,
    relocate,
    relocate_locked,
    sqlite_path,
)
from recipe_exp.tracking.placing import can_link, place_file

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["MlflowRun", "MlflowStore", "RunIdentity", "artifact_root", "default_uri", "relocate"]

RUN_ID_TAG = "recipe_exp.run_id"
_SWEEP_ID_TAG = "recipe_exp.parent_run_id"
MAX_METRICS_PER_BATCH = 1000
MAX_PARAMS_PER_BATCH = 100
MAX_TAGS_PER_BATCH = 100

# MLflow's own limits (mlflow.utils.validation and the sizes of its tables' columns).
_MAX_KEY_LENGTH = 250
_MAX_PARAM_LENGTH = 6000
_MAX_TAG_LENGTH = 5000
_MAX_DIGEST_LENGTH = 36
_MAX_DATASET_NAME_LENGTH = 500
_CUT = "... (cut)"

_PARENT_TAG = "mlflow.parentRunId"
_STATUSES: dict[Status, str] = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
_NOT_FOUND = "RESOURCE_DOES_NOT_EXIST"
_REFUSALS = frozenset({"INVALID_PARAMETER_VALUE", "INVALID_STATE", _NOT_FOUND})
_TIMEOUT_VARIABLE = "MLFLOW_HTTP_REQUEST_TIMEOUT"
# Files are stored by the server before it answers, and a run that is created twice cannot be told from two.
_PATIENT_SECONDS = 300

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Our own retries look at the parent process in between; MLflow's block for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    _TIMEOUT_VARIABLE: "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunIdentity:
    """What a run is created with.

    Attributes:
        run_id: our id of it, by which it is found again.
        run_name: its name in the interface.
        parent_run_id: our id of the sweep that it is a trial of.
        created: seconds since the epoch.
        tags: further tags.
        is_sweep: whether runs may name it as their parent.
    """

    run_id: str
    run_name: str
    parent_run_id: str | None
    created: float
    tags: dict[str, str]
    is_sweep: bool = False


def is_refusal(error: Exception) -> bool:
    """Whether sending the same again can only be refused again, unlike after an outage or a full disk."""
    if isinstance(error, OSError):  # network errors too, some of which are a ValueError as well
        return isinstance(error, FileNotFoundError)
    return isinstance(error, (TypeError, ValueError)) or getattr(error, "error_code", None) in _REFUSALS


def is_doubtful(error: Exception) -> bool:
    """Whether the error may be a refusal or an outage: a database's errors of every kind arrive as a bad request."""
    return getattr(error, "error_code", None) == "BAD_REQUEST"


def is_missing(error: Exception) -> bool:
    """Whether the server says that it does not have what was addressed, such as after losing its database."""
    return getattr(error, "error_code", None) == _NOT_FOUND


class MlflowStore:
    """One experiment on one tracking server or database."""

    def __init__(self, client: MlflowClient, uri: str, experiment_id: str) -> None:
        self._client = client
        self._uri = uri
        self.experiment_id = experiment_id

    @classmethod
    def open(cls, uri: str | None, experiment: str, output_dir: Path) -> MlflowStore:
        """Connect, creating the database and the experiment if they do not exist.

        Args:
            uri: tracking URI; None uses the database under `output_dir`.
            experiment: its name.
            output_dir: where the default database and its artifacts lie.

        Raises:
            TrackingError: the experiment was deleted in MLflow.
        """
        uri = uri or default_uri(output_dir)
        client = _connect(uri, output_dir)
        database = sqlite_path(uri)
        location = artifact_root(database.parent) if database is not None else None
        return cls(client, uri, _experiment_id(client, experiment, location))

    @classmethod
    def reopen(cls, uri: str, experiment_id: str, output_dir: Path) -> MlflowStore:
        """Connect to a server or database that was used before; nothing is created.

        Args:
            uri: tracking URI.
            experiment_id: MLflow's id of the experiment.
            output_dir: where the default database lies.

        Raises:
            TrackingError: the URI names a database file that does not exist.
        """
        database = sqlite_path(uri)
        if database is not None and not database.exists():
            raise TrackingError(f"{database}: the database is gone")
        return cls(_connect(uri, output_dir), uri, experiment_id)

    @property
    def public_uri(self) -> str:
        """The tracking URI without credentials."""
        return strip_credentials(self._uri)

    def find_run(self, run_id: str) -> str | None:
        """MLflow's id of the run that carries our `run_id`."""
        run = self._search(run_id)
        return run.info.run_id if run is not None else None

    def open_run(self, run_id: str) -> MlflowRun | None:
        """The run that carries our `run_id`; None if there is none that is not deleted."""
        run = self._search(run_id)
        return MlflowRun(self._client, run, is_local=self._is_local) if run is not None else None

    def find_or_create_run(self, identity: RunIdentity) -> MlflowRun:
        """The run of this identity, created if this experiment has none that is not deleted.

        A sweep and its trials may arrive in any order: whichever is last ties them together.
        """
        run = self._search(identity.run_id)
        if run is None:
            tags = {**identity.tags, RUN_ID_TAG: identity.run_id}
            if identity.parent_run_id is not None:
                tags[_SWEEP_ID_TAG] = identity.parent_run_id
            with _patient():
                run = self._client.create_run(
                    self.experiment_id,
                    start_time=round(identity.created * 1000),
                    tags=_clean_tags(tags),
                    run_name=identity.run_name,
                )
        parent_id = self.find_run(identity.parent_run_id) if identity.parent_run_id is not None else None
        if parent_id is not None:
            self._set_parent(run, parent_id)
        if identity.is_sweep:
            for trial in self._search_all(_SWEEP_ID_TAG, identity.run_id):
                self._set_parent(trial, run.info.run_id)
        return MlflowRun(self._client, run, is_local=self._is_local)

    def _set_parent(self, run: Run, parent_id: str) -> None:
        if run.data.tags.get(_PARENT_TAG) != parent_id:
            self._client.set_tag(run.info.run_id, _PARENT_TAG, parent_id)

    def _search(self, run_id: str) -> Run | None:
        return next(self._search_all(RUN_ID_TAG, run_id), None)

    def _search_all(self, tag: str, value: str) -> Iterator[Run]:
        token = None
        while True:
            runs = self._client.search_runs(
                [self.experiment_id], filter_string=f"tags.\"{tag}\" = '{value}'", page_token=token
            )
            yield from runs
            token = runs.token
            if not token:
                return

    @property
    def _is_local(self) -> bool:
        host = urlsplit(self._uri).hostname
        return sqlite_path(self._uri) is not None or host in ("localhost", "127.0.0.1", "::1")


class MlflowRun:
    """One run on the store. Everything may be sent again: it is stored once."""

    def __init__(self, client: MlflowClient, run: Run, *, is_local: bool) -> None:
        self._client = client
        self.run_id: str = run.info.run_id
        self._status: str = run.info.status
        self._params: dict[str, str] = dict(run.data.params)
        self._metric_names: list[str] = list(run.data.metrics)
        self._artifacts_folder = local_folder(run.info.artifact_uri)
        self._is_local = is_local

    def stored_steps(self) -> SeenSteps:
        """The steps at which the server has a value of each metric."""
        seen = SeenSteps()
        for name in self._metric_names:
            for metric in self._client.get_metric_history(self.run_id, name):
                seen.add(name, metric.step)
        return seen

    def log_metrics(self, points: Sequence[MetricPoint]) -> None:
        """Store the points; a value that is there with the same step and time stays single."""
        from mlflow.entities import Metric

        metrics = [Metric(clean_name(p.name), p.value, round(p.time * 1000), p.step) for p in points]
        for batch in _batches(metrics, MAX_METRICS_PER_BATCH):
            self._client.log_batch(self.run_id, metrics=batch)

    def log_params(self, params: dict[str, str]) -> None:
        """Store settings. MLflow's are immutable: a value that changed later is kept as a tag `changed.NAME`."""
        from mlflow.entities import Param

        texts = {clean_name(name): _cut(value, _MAX_PARAM_LENGTH) for name, value in params.items()}
        missing = {name: value for name, value in texts.items() if name not in self._params}
        for batch in _batches(list(missing.items()), MAX_PARAMS_PER_BATCH):
            self._client.log_batch(self.run_id, params=[Param(name, value) for name, value in batch])
            self._params.update(batch)
        changed = {f"changed.{name}": value for name, value in texts.items() if self._params[name] != value}
        self.set_tags(changed)

    def set_tags(self, tags: dict[str, str]) -> None:
        """Store labels, replacing those of the same name."""
        from mlflow.entities import RunTag

        texts = _clean_tags(tags)
        for batch in _batches(list(texts.items()), MAX_TAGS_PER_BATCH):
            self._client.log_batch(self.run_id, tags=[RunTag(name, value) for name, value in batch])

    def log_dataset(self, event: DatasetUse) -> None:
        """Record a dataset as an input of the run."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=event.name[:_MAX_DATASET_NAME_LENGTH],
            digest=event.digest[:_MAX_DIGEST_LENGTH],
            source_type="local",
            source=json.dumps({"uri": redact(event.source)}),
            profile=json.dumps({**event.profile, "fingerprint": event.digest}),
        )
        tags = [InputTag("mlflow.data.context", event.context)]
        self._client.log_inputs(self.run_id, datasets=[DatasetInput(dataset, tags)])

    def set_status(self, status: Status, time: float) -> None:
        """Reopen or end the run; `time` is when it ended, in seconds since the epoch."""
        if status == "running":
            if self._status != "RUNNING":
                self._client.update_run(self.run_id, status="RUNNING")
            self._status = "RUNNING"
            return
        self._status = _STATUSES[status]
        self._client.set_terminated(self.run_id, status=self._status, end_time=round(time * 1000))

    def has_artifact(self, artifact_path: str | None, name: str, num_bytes: int) -> bool:
        """Whether the store has a file of that place and size."""
        path = f"{artifact_path}/{name}" if artifact_path else name
        listed = self._client.list_artifacts(self.run_id, artifact_path)
        return any(entry.path == path and entry.file_size == num_bytes for entry in listed)

    def can_link(self, path: Path) -> bool:
        """Whether the store takes the file as a hard link, which costs neither time nor space."""
        if self._artifacts_folder is None:
            return False
        return can_link(path, self._artifacts_folder)

    def log_artifact(self, path: Path, artifact_path: str | None = None) -> None:
        """Store a file; on this machine's disk a large one is hard-linked, which takes no time and no space.

        Small files are copied, since those are the ones that people and programs change in place.
        """
        if self._artifacts_folder is None:
            with _patient():
                self._client.log_artifact(self.run_id, str(path), artifact_path)
            return
        if not self._is_local and not self._artifacts_folder.parents[1].exists():
            raise FileNotFoundError(
                f"artifacts of the server are kept at {self._artifacts_folder}, a path of its own machine; "
                "start the server with --serve-artifacts"
            )
        place_file(path, self._artifacts_folder / (artifact_path or "") / path.name)


def clean_name(name: str) -> str:
    """`name` as MLflow accepts it: alphanumerics and `_-. :/`, not resolving to another path, 250 characters."""
    cleaned = re.sub(r"[^\w. :/-]", "_", name)
    parts = [part for part in cleaned.split("/") if part not in ("", ".", "..")]
    return "/".join(parts)[:_MAX_KEY_LENGTH].rstrip("/") or "_"


def _clean_tags(tags: dict[str, str]) -> dict[str, str]:
    return {clean_name(name): _cut(value, _MAX_TAG_LENGTH) for name, value in tags.items()}


def _cut(text: str, max_length: int) -> str:
    return text if len(text) <= max_length else text[: max_length - len(_CUT)] + _CUT


def _batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _connect(uri: str, output_dir: Path) -> MlflowClient:
    os.environ.update(ENVIRONMENT)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    database = sqlite_path(uri)
    if database is None:
        return MlflowClient(tracking_uri=uri)
    database.parent.mkdir(parents=True, exist_ok=True)
    # Processes that create the tables of a fresh database at the same time crash each other.
    with database_lock(database):
        if not database.exists():
            create_database(database, _make_tables)
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
        if uri == default_uri(output_dir):
            relocate_locked(database)
    return client


def _make_tables(database: Path) -> None:
    from mlflow import MlflowClient

    MlflowClient(tracking_uri=f"sqlite:///{database}").search_experiments(max_results=1)


def _experiment_id(client: MlflowClient, name: str, location: str | None) -> str:
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            where = f"{location}/{quote(clean_name(name), safe='')}" if location else None
            return str(client.create_experiment(name, artifact_location=where))
        except Exception:
            # Another process may have created it in the meantime.
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    if experiment.lifecycle_stage != "active":
        raise TrackingError(
            f"tracking.experiment={name}: was deleted in MLflow; restore it there or choose another name"
        )
    return str(experiment.experiment_id)


@contextlib.contextmanager
def _patient() -> Iterator[None]:
    """Give a request minutes instead of seconds; MLflow reads the variable at every one."""
    before = os.environ.get(_TIMEOUT_VARIABLE, ENVIRONMENT[_TIMEOUT_VARIABLE])
    os.environ[_TIMEOUT_VARIABLE] = str(_PATIENT_SECONDS)
    try:
        yield
    finally:
        os.environ[_TIMEOUT_VARIABLE] = before
