"""The run's journal: training appends what happens to a local file and never waits for a tracker."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from recipe_exp.errors import TrackingError
from recipe_exp.files import FULL_DISK, LockedError, boot_id, file_lock, write_atomically
from recipe_exp.secrets import redact, redact_value
from recipe_exp.tracking.events import (
    Artifact,
    DatasetUse,
    Event,
    Metrics,
    Params,
    Rewind,
    Status,
    StatusChange,
    Tags,
    encode_event,
    encode_metric,
    last_event,
    metric_points,
    read_events,
)
from recipe_exp.tracking.run_folder import TERMINAL_STATUSES, RunFolder, is_abandoned

__all__ = ["Journal", "mark_interrupted", "metric_points", "read_events"]

_MAX_PENDING_BYTES = 8_000_000
_encoder = msgspec.json.Encoder()


class Journal:
    """Appends events to `journal.jsonl`, and metrics to `metrics.jsonl` too; each call is one write.

    What was logged is in the operating system's hands when a call returns, so killing the process loses
    nothing. A full disk is waited for: lines stay in memory, in order, and are written with a later call.

    A value that is not finite is `null` in `metrics.jsonl`, which plots and tables read, and keeps its kind
    in the journal and in the tracker.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._journal = _LineFile(folder.journal_path, drop_torn_line=False)
        self._metrics = _LineFile(folder.metrics_path, drop_torn_line=True)
        self._rewound_step = -1
        self._rewound_names: frozenset[str] = frozenset()

    def params(self, params: Mapping[str, object]) -> None:
        """Record settings; values become text, secrets are masked."""
        texts = {name: redact_value(name, str(value)) for name, value in params.items()}
        self._append(Params(time=_now(), params=texts))

    def tags(self, tags: Mapping[str, object]) -> None:
        """Record labels; values become text, secrets are masked."""
        texts = {name: redact_value(name, str(value)) for name, value in tags.items()}
        self._append(Tags(time=_now(), tags=texts))

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record numbers at `step`, which is not negative; what was there when the run was rewound to it stays."""
        if step < 0:
            raise ValueError(f"step={step}: must not be negative")
        now = _now()
        known = self._rewound_names if step == self._rewound_step else frozenset()
        values = {name: float(value) for name, value in metrics.items() if name not in known}
        if metrics and not values:
            return
        encoded = {name: encode_metric(value) for name, value in values.items()}
        entry = _encoder.encode(
            {
                "step": step,
                "time": now,
                "metrics": {name: None if isinstance(v, str) else v for name, v in encoded.items()},
            }
        )
        with self._lock:
            self._journal.append(encode_event(Metrics(time=now, step=step, metrics=encoded)))
            self._metrics.append(entry + b"\n")

    def artifact(self, path: Path, artifact_path: str | None = None, *, max_upload_bytes: int | None = None) -> None:
        """Record a file or folder to be kept by the tracker.

        Args:
            path: in the run folder, so that it travels with it; it must stay as it is until it is sent.
            artifact_path: folder in the tracker's store; None puts a file at the root and a folder's content
                under the folder's name.
            max_upload_bytes: a larger one stays where it is and the tracker only learns where that is, unless a
                hard link puts it into the store; None sends any size.
        """
        inner = path.absolute().relative_to(self._folder.path)
        event = Artifact(
            time=_now(), path=inner.as_posix(), artifact_path=artifact_path, max_upload_bytes=max_upload_bytes
        )
        self._append(event)

    def dataset(self, name: str, digest: str, profile: Mapping[str, object], context: str, source: str = "") -> None:
        """Record data that the run reads.

        Args:
            name: what people call it.
            digest: its fingerprint.
            profile: counts and bounds, as JSON values.
            context: `training`, `validation` or `test`.
            source: where it was read from.
        """
        shown = redact(source)
        event = DatasetUse(time=_now(), name=name, digest=digest, profile=dict(profile), context=context, source=shown)
        self._append(event)

    def status(self, status: Status) -> None:
        """Record in the journal and in `run.json` that the run began, goes on (by this process) or ended."""
        is_running = status == "running"
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "boot": boot_id()} if is_running else {}
        self._folder.update_record(status=status, **owner)
        self._append(StatusChange(time=_now(), status=status))
        self.sync()

    def sync(self) -> None:
        """Wait until everything that was recorded is on the disk and survives a power cut.

        Raises:
            OSError: the disk is full, or refuses for another reason.
        """
        with self._lock:
            self._journal.sync()
            self._metrics.sync()

    def rewind(self, step: int) -> None:
        """Go on from a checkpoint at `step`: `metrics.jsonl` keeps only what was logged up to it.

        What was logged at `step` may come again, as when an evaluation that an interruption gave up was made by a
        process that was killed before it saved.
        """
        self._append(Rewind(time=_now(), step=step))
        with self._lock:
            self._metrics.sync()
            self._rewound_step = step
            self._rewound_names = _keep_entries_up_to(self._folder.metrics_path, step)
            # The open file is the one that was replaced.
            self._metrics.close()
            self._metrics = _LineFile(self._folder.metrics_path, drop_torn_line=True)

    def close(self) -> None:
        """Write what a full disk held back and close the files.

        Raises:
            TrackingError: the disk is still full.
        """
        with self._lock:
            self._journal.close()
            self._metrics.close()

    def _append(self, event: Event) -> None:
        with self._lock:
            self._journal.append(encode_event(event))


def mark_interrupted(folder: RunFolder) -> bool:
    """Give a run whose process is gone its true status: in `run.json`, and as the last event of its journal.

    A process that ended without closing the journal has perhaps set the status in `run.json` already; then the journal
    follows it.

    Returns:
        Whether the run was recorded as running.

    Raises:
        OSError: the folder cannot be written.
    """
    record = folder.read_record()
    if _is_closed(folder, record) or not is_abandoned(folder, record):
        return False
    try:
        # Whoever wants to go on with the run waits for this lock, and sets the status after it.
        with file_lock(folder.lock_path, timeout_seconds=0.0):
            return _close_for_dead_process(folder)
    except LockedError:
        return False


def _is_closed(folder: RunFolder, record: Mapping[str, object]) -> bool:
    if record.get("status") not in TERMINAL_STATUSES:
        return False
    last = last_event(folder.journal_path)
    has_journal = folder.journal_path.exists()
    return not has_journal or (isinstance(last, StatusChange) and last.status in TERMINAL_STATUSES)


def _close_for_dead_process(folder: RunFolder) -> bool:
    record = folder.read_record()
    if _is_closed(folder, record):
        return False
    was_running = record.get("status") not in TERMINAL_STATUSES
    status: Status = "interrupted" if was_running else record["status"]
    # The last line is the last sign of life. It is followed first: a kill in between lets the next start do it again.
    ended = folder.journal_path.stat().st_mtime if folder.journal_path.exists() else time.time()
    journal = _LineFile(folder.journal_path, drop_torn_line=False)
    journal.append(encode_event(StatusChange(time=round(ended, 3), status=status)))
    journal.sync()
    journal.close()
    if was_running:
        folder.update_record(status=status)
    return was_running


class _LineFile:
    """A file of lines that is only ever appended to, one `write` a line.

    Args:
        path: created when absent.
        drop_torn_line: what to do with a last line that a kill cut short. Dropping it keeps every line valid
            for readers that do not expect one; ending it keeps every byte where a reader's offset expects it.
    """

    def __init__(self, path: Path, *, drop_torn_line: bool) -> None:
        self._path = path
        self._pending = bytearray()
        self._refusal: OSError | None = None
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise TrackingError(
                f"{path}: cannot be written ({error.strerror}); make room on that disk, or set output_dir to another"
            ) from error
        self._heal(drop_torn_line)

    def append(self, line: bytes) -> None:
        self._pending += line
        self._flush()
        if len(self._pending) > _MAX_PENDING_BYTES:
            raise TrackingError(f"{self._path}: the disk is full and nothing more can be held; free some space")

    def sync(self) -> None:
        self._flush()
        if self._refusal is not None:
            raise OSError(self._refusal.errno, self._refusal.strerror, str(self._path))
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            error.filename = str(self._path)
            raise

    def close(self) -> None:
        try:
            self._flush()
        finally:
            os.close(self._descriptor)
        if self._pending:
            raise TrackingError(f"{self._path}: the disk is full and the last lines are lost; free some space")

    def _flush(self) -> None:
        try:
            while self._pending:
                written = os.write(self._descriptor, self._pending)
                del self._pending[:written]
            self._refusal = None
        except OSError as error:
            if error.errno not in FULL_DISK:
                raise TrackingError(f"{self._path}: cannot be written ({error.strerror})") from error
            self._refusal = error

    def _heal(self, drop_torn_line: bool) -> None:
        size = os.fstat(self._descriptor).st_size
        if size == 0 or os.pread(self._descriptor, 1, size - 1) == b"\n":
            return
        if drop_torn_line:
            os.ftruncate(self._descriptor, self._end_of_last_line(size))
        else:
            self.append(b"\n")

    def _end_of_last_line(self, size: int) -> int:
        start = size
        while start > 0:
            start = max(0, start - 4096)
            position = os.pread(self._descriptor, min(4096, size - start), start).rfind(b"\n")
            if position >= 0:
                return start + position + 1
        return 0


def _keep_entries_up_to(path: Path, step: int) -> frozenset[str]:
    """Returns the names of what was logged at `step`."""
    kept = [line for line in path.read_bytes().splitlines(keepends=True) if _step_of(line) <= step]
    write_atomically(path, b"".join(kept))
    last = (msgspec.json.decode(line).get("metrics", {}) for line in kept if _step_of(line) == step)
    return frozenset(name for metrics in last for name in metrics)


def _step_of(line: bytes) -> int:
    try:
        return int(msgspec.json.decode(line)["step"])
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError):
        return 2**63  # later than every checkpoint: a damaged entry is not kept


def _now() -> float:
    """Seconds since the epoch, to the millisecond that the tracker keeps."""
    return round(time.time(), 3)
