"""The run folder: the only place that makes, finds, locks and describes the folder of a run."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import re
import secrets
import shutil
import socket
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from recipe_exp.config.migrations import SCHEMA_VERSION
from recipe_exp.errors import CheckpointError
from recipe_exp.files import (
    LockedError,
    boot_id,
    file_lock,
    is_locked,
    is_process_alive,
    remove_stale_temporaries,
    write_atomically,
)
from recipe_exp.secrets import redact_command
from recipe_exp.tracking.record_file import RECORD_NAME, read_record

RunKind = Literal["run", "sweep", "data"]

PARENT_RUN_ID_VARIABLE = "RECIPE_EXP_PARENT_RUN_ID"
"""Tells a trial's process which sweep it belongs to."""
TRIAL_VARIABLE = "RECIPE_EXP_TRIAL"
"""Tells a trial's process which trial of the sweep it is."""
TERMINAL_STATUSES = frozenset({"finished", "interrupted", "failed"})

FOLDERS: dict[RunKind, str] = {"run": "runs", "sweep": "sweeps", "data": "data_cards"}
"""Where in `output_dir` the runs of each kind are."""
_LOCK_NAME = "run.lock"
_LOCK_TIMEOUT_SECONDS = 2.0
_BASE32 = "abcdefghijklmnopqrstuvwxyz234567"
_MAX_SLUG_LENGTH = 64
_MAX_NAME_LENGTH = 250
_MAX_ATTEMPTS = 100
_SILENT_SECONDS = 6 * 3600.0


@dataclass(frozen=True)
class RunFolder:
    """One run's folder. Made by `create`, found by `open` or `finding.find_run`."""

    path: Path
    run_id: str

    @classmethod
    def create(
        cls,
        output_dir: Path,
        *,
        run_name: str,
        kind: RunKind = "run",
        command: Sequence[str],
        parent_run_id: str | None = None,
        trial: str | None = None,
    ) -> RunFolder:
        """Make `output_dir/runs/RUN_ID-SLUG/` (`sweeps/` for a sweep, `data_cards/` for data) with its `run.json`.

        Args:
            output_dir: created when absent.
            run_name: any text; the folder carries a sanitised form of it.
            kind: whether this is one run, the parent of a sweep's trials, or the record of prepared data.
            command: the command line that started the run; stored without secrets.
            parent_run_id: run id of the sweep that the run is a trial of.
            trial: which of its trials.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        folder: RunFolder | None = None
        try:
            folder = _make_folder(output_dir.absolute() / FOLDERS[kind], run_name)
            record = _initial_record(folder.run_id, run_name, kind, command)
            folder.update_record(**record, parent_run_id=parent_run_id, trial=trial)
        except OSError as error:
            if folder is not None:
                shutil.rmtree(folder.path, ignore_errors=True)
            raise CheckpointError(
                f"output_dir={output_dir}: no run folder can be made there ({error.strerror or error}); "
                "set output_dir to a folder that can be written"
            ) from error
        return folder

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The run folder at `path`.

        Raises:
            CheckpointError: `path` is not a run folder or its `run.json` cannot be read.
        """
        path = path.absolute()
        record = read_record(path)
        if record is None:
            raise CheckpointError(f"{path}: not a run folder (it has no {RECORD_NAME})")
        return cls(path=path, run_id=str(record.get("run_id") or path.name))

    @property
    def output_dir(self) -> Path:
        """The `output_dir` that the folder lies in."""
        return self.path.parent.parent

    @property
    def config_path(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def record_path(self) -> Path:
        """`run.json`."""
        return self.path / RECORD_NAME

    @property
    def metrics_path(self) -> Path:
        """One JSON line for each logged step of the trajectory that the run is on."""
        return self.path / "metrics.jsonl"

    @property
    def system_path(self) -> Path:
        """The system metrics that the uploader samples."""
        return self.path / "system.jsonl"

    @property
    def journal_path(self) -> Path:
        """Every event, in order, as it was logged."""
        return self.path / "journal.jsonl"

    @property
    def lock_path(self) -> Path:
        """The lock of the one process that trains in this folder."""
        return self.path / _LOCK_NAME

    @property
    def checkpoints_path(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def model_path(self) -> Path:
        """The folder of the best checkpoint's model."""
        return self.path / "model"

    @property
    def samples_path(self) -> Path:
        """Generated samples, one JSON line each."""
        return self.path / "samples.jsonl"

    @property
    def scores_path(self) -> Path:
        """The scores of each example of every evaluation, one JSON line each."""
        return self.path / "scores.jsonl"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Be the one process that trains in this folder; the kernel releases the lock when it dies.

        Raises:
            CheckpointError: another process holds the lock; the message names it.
        """
        try:
            # The wait outlasts another process's glance with `is_alive` or `mark_interrupted`, which take the lock.
            with file_lock(self.lock_path, timeout_seconds=_LOCK_TIMEOUT_SECONDS) as stream:
                with contextlib.suppress(OSError):  # a note for people, which a full disk has no room for
                    os.ftruncate(stream.fileno(), 0)
                    os.write(stream.fileno(), json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
                remove_stale_temporaries(self.path)
                yield
        except LockedError as error:
            raise CheckpointError(
                f"{self.path}: in use by {_describe_holder(self.lock_path)}; "
                "wait for it to end, or stop it, before continuing this run"
            ) from error

    def read_record(self) -> dict[str, Any]:
        """The content of `run.json`.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        record = read_record(self.path)
        if record is None:
            raise CheckpointError(f"{self.record_path}: missing; the folder is not that of a run")
        return record

    def update_record(self, **fields: Any) -> None:
        """Set fields of `run.json`, leaving the others; safe against other processes and a kill."""
        with self.edit_record() as record:
            record.update(fields)

    @contextlib.contextmanager
    def edit_record(self) -> Iterator[dict[str, Any]]:
        """Read `run.json`, let the caller change it, and replace it, as one transaction between processes."""
        with file_lock(self.path / f".{RECORD_NAME}.lock"):
            record = read_record(self.path) or {}
            yield record
            record["updated"] = round(time.time(), 3)
            write_atomically(self.record_path, json.dumps(record, indent=2, ensure_ascii=False).encode())


def is_alive(folder: RunFolder) -> bool:
    """Whether some process holds the folder's lock.

    A run that is recorded as running whose lock is free was killed.
    """
    return is_locked(folder.lock_path)


def is_abandoned(folder: RunFolder, record: Mapping[str, Any]) -> bool:
    """Whether the process that held a run is known to be gone.

    On this machine, whichever container the run was in, the lock says so. Locks of another machine may not reach here,
    so there the run must have been silent for hours too.
    """
    if is_alive(folder):
        return False
    if record.get("host") == socket.gethostname() or (record.get("boot") and record.get("boot") == boot_id()):
        return True
    signs = [path.stat().st_mtime for path in (folder.journal_path, folder.record_path) if path.exists()]
    return time.time() - max(signs, default=0.0) > _SILENT_SECONDS


def list_runs(output_dir: Path, kind: RunKind | None = None) -> list[RunFolder]:
    """All run folders under `output_dir`, the newest first; only those of one kind if `kind` is given."""
    kinds: list[RunKind] = ["run", "sweep", "data"] if kind is None else [kind]
    found = []
    for one_kind in kinds:
        for path in (output_dir.absolute() / FOLDERS[one_kind]).glob("*/"):
            with contextlib.suppress(CheckpointError, OSError):
                folder = RunFolder.open(path)
                created = float(folder.read_record().get("created", 0.0))
                found.append((created, folder.run_id, folder))
    return [folder for *_, folder in sorted(found, key=lambda entry: entry[:2], reverse=True)]


def remove_unbegun(folder: RunFolder) -> bool:
    """Remove the folder of a run whose process was killed before it had a configuration: there is nothing in it.

    Returns:
        Whether that was so.
    """
    record = folder.read_record()
    if record.get("kind") != "run" or folder.config_path.exists() or folder.checkpoints_path.exists():
        return False
    if record.get("host") != socket.gethostname() or is_process_alive(int(record.get("pid", 0))):
        return False
    shutil.rmtree(folder.path, ignore_errors=True)
    return True


def _make_folder(parent: Path, run_name: str) -> RunFolder:
    parent.mkdir(parents=True, exist_ok=True)
    slug = _slug(run_name)
    for _ in range(_MAX_ATTEMPTS):
        run_id = _new_run_id()
        # Two folders of one id would differ in their slug only, so the id itself is looked for.
        if any(parent.glob(f"{run_id}-*")):
            continue
        path = parent / f"{run_id}-{slug}"
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            return RunFolder(path=path, run_id=run_id)
    raise FileExistsError(f"no free run id in {parent}")


def _new_run_id() -> str:
    """`YYYYMMDD-HHMMSS-xxxx` in UTC, so that ids sort by age across time zones and clock changes."""
    suffix = "".join(secrets.choice(_BASE32) for _ in range(4))
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{suffix}"


def _slug(run_name: str) -> str:
    """`run_name` as a part of one file name that can be typed as a value: ASCII letters, digits and `_-.`."""
    plain = unicodedata.normalize("NFKD", run_name).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^A-Za-z0-9_.]+", "-", plain).strip("-.")
    slug = re.sub(r"\.{2,}", ".", slug)
    return slug[:_MAX_SLUG_LENGTH].rstrip("-.") or "run"


def _initial_record(run_id: str, run_name: str, kind: RunKind, command: Sequence[str]) -> dict[str, Any]:
    printable = "".join(character for character in run_name if character.isprintable())
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        "run_name": printable[:_MAX_NAME_LENGTH] or run_id,
        "kind": kind,
        "status": "running",
        "created": round(time.time(), 3),
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "boot": boot_id(),
        "user": _user_name(),
        "command": redact_command(command),
        "mlflow": {},
    }


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id without a name
        return str(os.getuid())


def _describe_holder(lock_path: Path) -> str:
    try:
        holder = json.loads(lock_path.read_bytes())
        return f"process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
