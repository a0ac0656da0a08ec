"""From events of the journal to calls of the store: what the uploader and `sync` share."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from recipe_exp.files import write_atomically
from recipe_exp.tracking.events import (
    Artifact,
    DatasetUse,
    Event,
    EventTail,
    MetricPoint,
    Metrics,
    Params,
    Rewind,
    SeenSteps,
    StatusChange,
    Tags,
    metric_points,
)
from recipe_exp.tracking.mlflow_store import (
    MAX_METRICS_PER_BATCH,
    MlflowRun,
    MlflowStore,
    RunIdentity,
    is_doubtful,
    is_refusal,
)
from recipe_exp.tracking.run_folder import TERMINAL_STATUSES, RunFolder

Call: TypeAlias = Callable[[MlflowRun], None]

_MAX_ATTEMPTS_IN_DOUBT = 5


@dataclass
class SendCounts:
    """What was sent, and what the server refused for good."""

    num_metrics: int = 0
    num_params: int = 0
    num_tags: int = 0
    num_artifacts: int = 0
    num_datasets: int = 0
    num_refused: int = 0


@dataclass
class SentRecord:
    """How far a run folder was sent to one place, kept in the folder so that a restart does not send again.

    Attributes:
        target: store, experiment and MLflow's run id; a record of another target is not used.
        journal_offset: bytes of the journal that were sent.
        system_offset: bytes of the system metrics that were sent.
        artifacts: size and modification time of each file sent, by its place in the store.
    """

    target: str
    journal_offset: int = 0
    system_offset: int = 0
    artifacts: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, target: str) -> SentRecord:
        """The record at `path`, or an empty one if there is none of this target."""
        try:
            stored = cls(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError):
            return cls(target)
        return stored if stored.target == target else cls(target)

    def save(self, path: Path) -> None:
        """Replace the record at `path`."""
        write_atomically(path, json.dumps(vars(self)).encode())


def sent_record_path(folder: RunFolder) -> Path:
    """Where the folder keeps its `SentRecord`."""
    return folder.path / "uploader.json"


def uploader_log_path(folder: RunFolder) -> Path:
    """What the folder's uploaders have to say."""
    return folder.path / "uploader.log"


def is_final(error: Exception, num_attempts: int) -> bool:
    """Whether sending the same once more is of no use."""
    return is_refusal(error) or (is_doubtful(error) and num_attempts >= _MAX_ATTEMPTS_IN_DOUBT)


def target_of(store_uri: str, experiment_id: str, mlflow_run_id: str) -> str:
    """What a `SentRecord` is about."""
    return f"{store_uri} {experiment_id} {mlflow_run_id}"


def open_run(store: MlflowStore, folder: RunFolder) -> MlflowRun:
    """The MLflow run of `folder`, whose `run.json` then names it."""
    record = folder.read_record()
    run = store.find_or_create_run(run_identity(record))
    place = place_of(store, run.run_id)
    if record.get("mlflow") != place:
        with contextlib.suppress(OSError):  # it is found by our run id as well
            folder.update_record(mlflow=place)
    return run


def place_of(store: MlflowStore, mlflow_run_id: str) -> dict[str, str]:
    """What `run.json` says about where the run is on the tracker."""
    return {"uri": store.public_uri, "experiment_id": store.experiment_id, "run_id": mlflow_run_id}


def run_identity(record: dict[str, Any]) -> RunIdentity:
    """What MLflow is told of a run, from its `run.json`."""
    kind = str(record.get("kind", "run"))
    tags = {"recipe_exp.kind": kind, "mlflow.user": str(record.get("user", ""))}
    if record.get("command"):
        tags["mlflow.source.name"] = " ".join(record["command"])
    return RunIdentity(
        run_id=str(record["run_id"]),
        run_name=str(record.get("run_name", record["run_id"])),
        parent_run_id=record.get("parent_run_id"),
        created=float(record.get("created", 0.0)),
        tags=tags,
        is_sweep=kind == "sweep",
    )


class Sender:
    """Turns events into calls, in the journal's order, each metric value once.

    A call can be repeated until it succeeds; it is counted when it does.

    Args:
        folder: the run folder whose events these are.
        seen: the metric values that need not be sent.
        sent: the artifacts that were sent before; extended.
        max_upload_bytes: artifacts up to this size are sent even if the run wanted to send smaller ones only.
    """

    def __init__(self, folder: RunFolder, seen: SeenSteps, sent: SentRecord, max_upload_bytes: int = 0) -> None:
        self._folder = folder
        self._seen = seen
        self._sent = sent
        self._max_upload_bytes = max_upload_bytes
        self.counts = SendCounts()

    def calls(self, events: Sequence[Event]) -> Iterator[Call]:
        """The calls that store `events`; metrics between two other events travel together."""
        points: list[MetricPoint] = []
        for event in events:
            if isinstance(event, Metrics):
                points.extend(metric_points([event], self._seen))
                if len(points) < MAX_METRICS_PER_BATCH:
                    continue
            if points:
                yield partial(self._send_metrics, points)
                points = []
            if not isinstance(event, Metrics):
                yield from self._calls_of(event)
        if points:
            yield partial(self._send_metrics, points)

    def _calls_of(self, event: Event) -> Iterator[Call]:
        match event:
            case Params():
                yield partial(self._send_params, event.params)
            case Tags():
                yield partial(self._send_tags, event.tags)
            case DatasetUse():
                yield partial(self._send_dataset, event)
            case StatusChange():
                yield lambda run: run.set_status(event.status, event.time)
            case Artifact() if not self._is_inside(event):
                yield partial(self._refuse, f"{event.path}: lies outside of the run folder")
            case Artifact() if self._is_large(event):
                yield partial(self._send_large, event)
            case Artifact():
                for path, place in self._files(event):
                    yield partial(self._send_artifact, path, place)
            case Metrics() | Rewind():
                return

    def _files(self, event: Artifact) -> Iterator[tuple[Path, str | None]]:
        """Each file of the artifact and the folder it goes to; one that is gone fails when it is sent."""
        path = self._folder.path / event.path
        if not path.is_dir():
            yield path, event.artifact_path
            return
        base = Path(event.artifact_path if event.artifact_path is not None else path.name)
        for file in sorted(path.rglob("*")):
            if file.is_file():
                place = (base / file.relative_to(path).parent).as_posix()
                yield file, None if place == "." else place

    def _send_metrics(self, points: list[MetricPoint], run: MlflowRun) -> None:
        try:
            run.log_metrics(points)
            self.counts.num_metrics += len(points)
        except Exception as error:
            if not is_refusal(error) or len(points) == 1:
                raise
            # One bad value must not cost the others; only the bad one is refused.
            for point in points:
                self._send_single_metric(point, run)

    def _send_single_metric(self, point: MetricPoint, run: MlflowRun) -> None:
        try:
            run.log_metrics([point])
            self.counts.num_metrics += 1
        except Exception as error:
            if not is_refusal(error):
                raise
            self.counts.num_refused += 1

    def _send_params(self, params: dict[str, str], run: MlflowRun) -> None:
        run.log_params(params)
        self.counts.num_params += len(params)

    def _send_tags(self, tags: dict[str, str], run: MlflowRun) -> None:
        run.set_tags(tags)
        self.counts.num_tags += len(tags)

    def _send_dataset(self, event: DatasetUse, run: MlflowRun) -> None:
        run.log_dataset(event)
        self.counts.num_datasets += 1

    def _is_inside(self, event: Artifact) -> bool:
        """A folder that somebody else made has no business with the other files of this machine."""
        path = (self._folder.path / event.path).resolve()
        return path.is_relative_to(self._folder.path.resolve())

    def _refuse(self, reason: str, run: MlflowRun) -> None:
        raise ValueError(reason)

    def _is_large(self, event: Artifact) -> bool:
        if event.max_upload_bytes is None:
            return False
        num_bytes = sum(path.stat().st_size for path, _ in self._files(event) if path.exists())
        return num_bytes > max(event.max_upload_bytes, self._max_upload_bytes)

    def _send_large(self, event: Artifact, run: MlflowRun) -> None:
        """Link what is too large to be uploaded, or say where it is."""
        files = list(self._files(event))
        largest, _ = max(files, key=lambda file: file[0].stat().st_size)
        if run.can_link(largest):
            for path, place in files:
                self._send_artifact(path, place, run)
            return
        path = self._folder.path / event.path
        num_bytes = sum(file.stat().st_size for file, _ in files)
        reference = {"path": str(path), "host": socket.gethostname(), "gigabytes": f"{num_bytes / 1e9:.3g}"}
        self._send_tags({f"not_uploaded.{path.name}.{name}": value for name, value in reference.items()}, run)

    def _send_artifact(self, path: Path, place: str | None, run: MlflowRun) -> None:
        status = path.stat()
        key = f"{place}/{path.name}" if place else path.name
        version = f"{status.st_size}-{status.st_mtime_ns}"
        if self._sent.artifacts.get(key) == version and run.has_artifact(place, path.name, status.st_size):
            return
        run.log_artifact(path, place)
        self._sent.artifacts[key] = version
        self.counts.num_artifacts += 1


class Backlog:
    """What of a run folder is not sent yet to one place, in the journal's order.

    Args:
        folder: the run folder.
        target: where it is sent, from `target_of`.
        history_end: byte of the journal up to which a status was written by an earlier process and ends nothing.

    Attributes:
        sender: turns what is read into calls.
        status: the last status that was read.
        has_ended: whether that status, written after `history_end`, ended the run.
    """

    def __init__(self, folder: RunFolder, target: str, history_end: int = 0) -> None:
        self._folder = folder
        self._sent = SentRecord.load(sent_record_path(folder), target)
        self._journal = EventTail(folder.journal_path)
        self._system = EventTail(folder.system_path)
        self._history_end = history_end
        self.status = "running"
        self.has_ended = False
        self.sender = Sender(folder, self._pass_over_sent(), self._sent)

    def calls(self) -> Iterator[Call] | None:
        """The calls that send the next events, at most about a megabyte of them; None if nothing is left."""
        offsets = self._journal.offset, self._system.offset
        events = [*self._system.read(), *self._read_journal()]
        return None if offsets == (self._journal.offset, self._system.offset) else self.sender.calls(events)

    def remember(self) -> None:
        """Note that every call so far was made."""
        self._sent.journal_offset, self._sent.system_offset = self._journal.offset, self._system.offset
        with contextlib.suppress(OSError):  # without it a restart sends again, which stores nothing twice
            self._sent.save(sent_record_path(self._folder))

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
        is_history = self._journal.offset < self._history_end
        if is_history:
            end = min(self._history_end, end or self._history_end)
        events = self._journal.read(end)
        for event in events:
            if isinstance(event, StatusChange):
                self.status = event.status
                self.has_ended = event.status in TERMINAL_STATUSES and not is_history
        return events
