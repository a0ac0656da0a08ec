"""What lies under `output_dir`: which run or cache takes how much space, and why something must stay."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from recipe_exp.files import is_locked
from recipe_exp.tracking import RunFolder, is_abandoned, is_alive, list_runs
from recipe_exp.tracking.sending_lock import uploader_lock_path

REMOVED = ".removed"
"""Part of the name of what is put aside to be removed."""
_PARTIAL = ".partial"


@dataclass
class _File:
    """One file on the disk: its size, how many names it has in all, and how many of them were seen."""

    num_bytes: int
    num_links: int
    num_seen: int = 0


class Space:
    """What some files and folders take, each file once however many names it has; links are not followed."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._files: dict[tuple[int, int], _File] = {}
        for path in paths:
            for entry in _entries(path):
                with contextlib.suppress(OSError):  # another process removed it
                    status = entry.stat(follow_symlinks=False)
                    file = _File(status.st_size, status.st_nlink)
                    self._files.setdefault((status.st_dev, status.st_ino), file).num_seen += 1

    @property
    def num_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.num_bytes for file in self._files.values())

    @property
    def freed_bytes(self) -> int:
        """Bytes that removing all of it frees: those of files that have no name elsewhere."""
        return sum(file.num_bytes for file in self._files.values() if file.num_seen >= file.num_links)

    def bytes_beyond(self, others: Iterable[Space]) -> int:
        """Returns the bytes of the files that are in none of the others."""
        known = {key for other in others for key in other._files}
        return sum(file.num_bytes for key, file in self._files.items() if key not in known)


@dataclass(frozen=True)
class StoredFolder:
    """The folder of a run or a sweep.

    Attributes:
        folder: the run folder.
        record: its `run.json`.
        trials: run ids of a sweep's trials that are still there.
    """

    folder: RunFolder
    record: dict[str, Any]
    trials: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """`run`, `trial`, `sweep` or `data`."""
        if (kind := self.record.get("kind")) in ("sweep", "data"):
            return str(kind)
        return "trial" if self.record.get("parent_run_id") else "run"

    @cached_property
    def status(self) -> str:
        """As recorded, but for a run whose process was killed before it could record that."""
        recorded = str(self.record.get("status", "unknown"))
        if is_alive(self.folder):
            return "running"
        return "interrupted" if recorded == "running" and is_abandoned(self.folder, self.record) else recorded

    @cached_property
    def checkpoints(self) -> list[Path]:
        """Folders of complete checkpoints, the oldest first."""
        return sorted(path for path in _folders_in(self.folder.checkpoints_path, "step-*") if _is_checkpoint(path))

    @cached_property
    def best_checkpoints(self) -> list[Path]:
        """Those that were ranked among the best; the newest one where nothing was evaluated."""
        ranked = [path for path in self.checkpoints if int(path.name.removeprefix("step-")) in self._best_steps()]
        return ranked or self.checkpoints[-1:]

    @property
    def spare_checkpoints(self) -> list[Path]:
        """Those that a finished run keeps beside the best ones, to be continued from; none of other runs."""
        if self.refusal_of_checkpoints() is not None:
            return []
        return [path for path in self.checkpoints if path not in self.best_checkpoints]

    @cached_property
    def checkpoint_space(self) -> Space:
        """What the checkpoints take."""
        return Space([self.folder.checkpoints_path])

    @cached_property
    def space(self) -> Space:
        """What everything takes."""
        return Space([self.folder.path])

    @property
    def rest_bytes(self) -> int:
        """Bytes beside the checkpoints; a model that shares its file with a checkpoint is counted there."""
        return self.space.bytes_beyond([self.checkpoint_space])

    def refusal_of_checkpoints(self) -> str | None:
        """Returns why none of its checkpoints may go, in a line; None if all but the best may."""
        if self.kind in ("sweep", "data"):
            what = "a sweep" if self.kind == "sweep" else "a data card"
            return f"{self.folder.run_id}: {what}, which has no checkpoints of its own"
        if self.status == "failed" and not self.checkpoints:
            return None
        return self._refusal_of_all() or self._refusal_of_unfinished()

    def refusal_of_run(self) -> str | None:
        """Returns why the whole run must stay, in a line; None if it may go."""
        if refusal := self._refusal_of_all():
            return refusal
        if self.kind == "data":
            return None
        if self.kind != "sweep":
            return self._refusal_of_unfinished() if self.status != "failed" or self.checkpoints else None
        if self.trials:
            return f"{self.folder.run_id}: the parent of {len(self.trials)} trials that are still here"
        return None

    def leftovers(self) -> list[Path]:
        """Folders that interrupted saves left; none while a process may be saving."""
        if is_alive(self.folder):
            return []
        model = self.folder.model_path
        found = [*_folders_in(self.folder.checkpoints_path, f"*{_PARTIAL}"), model.with_name(model.name + _PARTIAL)]
        if model.is_dir():  # else this is the only one
            found.append(model.with_name(f"{model.name}.previous"))
        return [path for path in found if path.is_dir()]

    def _refusal_of_all(self) -> str | None:
        run_id = self.folder.run_id
        if is_alive(self.folder):
            return f"{run_id}: in use by a process of this machine; wait for its end, or stop it"
        if is_locked(uploader_lock_path(self.folder)):
            return f"{run_id}: its record is still being sent to the tracker; wait for that"
        if self.status == "running":
            return f"{run_id}: running on {self.record.get('host')}, as far as is known here"
        return None

    def _refusal_of_unfinished(self) -> str | None:
        if self.status == "finished":
            return None
        return (
            f"{self.folder.run_id}: {self.status}, so that resume={self.folder.run_id} can continue it; "
            "remove the folder of a run that is given up by hand"
        )

    def _best_steps(self) -> set[int]:
        """The ranking that the newest checkpoint holds, and the best step of `run.json` and of `model/`."""
        best = self.record.get("best")
        sources = [best.get("step") if isinstance(best, dict) else None]
        sources.append(_read(self.folder.model_path / "manifest.json").get("step"))
        for path in self.checkpoints[-1:]:
            callbacks = _read(path / "state.json").get("callbacks")
            ranking = callbacks.get("CheckpointCallback", {}).get("ranking", []) if isinstance(callbacks, dict) else []
            sources += [entry[0] for entry in ranking]
        return {int(step) for step in sources if isinstance(step, int | float)}


@dataclass(frozen=True)
class StoredCache:
    """One token cache, or the prepared data of some.

    Attributes:
        path: its folder.
        num_runs: runs under `output_dir` that were trained on it.
    """

    path: Path
    num_runs: int

    @property
    def kind(self) -> str:
        """What it is."""
        return "prepared data" if self.path.name.startswith("prepared-") else "token cache"

    @property
    def lock_path(self) -> Path:
        """The lock of whoever builds it."""
        return self.path.with_name(f"{self.path.name}.lock")

    @cached_property
    def space(self) -> Space:
        """What it takes."""
        return Space([self.path])


@dataclass(frozen=True)
class Inventory:
    """Everything under an `output_dir` that takes space.

    Attributes:
        runs: runs, sweeps and data cards, the newest first.
        caches: token caches and prepared data, the largest first.
        leftovers: folders that interrupted saves, builds and removals left.
        strangers: folders among the runs that are none, because their `run.json` is missing or damaged.
        tracker: MLflow's database and artifacts.
    """

    runs: tuple[StoredFolder, ...]
    caches: tuple[StoredCache, ...]
    leftovers: tuple[Path, ...]
    strangers: tuple[Path, ...]
    tracker: tuple[Path, ...]

    @classmethod
    def of(cls, output_dir: Path, cache_dir: Path) -> Inventory:
        """Looks at the folders; writes nothing."""
        runs = tuple(_stored_runs(output_dir))
        known = {run.folder.path for run in runs}
        folders = [
            path for kind in ("runs", "sweeps", "data_cards") for path in _folders_in(output_dir.absolute() / kind, "*")
        ]
        caches = [
            StoredCache(path, sum(path.name in _caches_of(run) for run in runs))
            for path in _folders_in(cache_dir, "*")
            if (path / "card.json").is_file() and not path.suffix
        ]
        return cls(
            runs=runs,
            caches=tuple(sorted(caches, key=lambda cache: -cache.space.num_bytes)),
            leftovers=(
                *(path for run in runs for path in run.leftovers()),
                *_folders_in(output_dir, f"{REMOVED}-*"),
                *_folders_in(cache_dir, f"*{REMOVED}"),
                *(path for path in _folders_in(cache_dir, "*.building") if not is_locked(path.with_suffix(".lock"))),
            ),
            strangers=tuple(path for path in folders if path not in known),
            tracker=tuple(path for name in ("mlflow.db", "mlartifacts") if (path := output_dir / name).exists()),
        )


def _stored_runs(output_dir: Path) -> Iterator[StoredFolder]:
    found = []
    for folder in list_runs(output_dir):
        with contextlib.suppress(Exception):  # somebody removes it at this moment
            found.append((folder, folder.read_record()))
    trials: dict[str, list[str]] = {}
    for folder, record in found:
        trials.setdefault(str(record.get("parent_run_id")), []).append(folder.run_id)
    for folder, record in found:
        yield StoredFolder(folder, record, tuple(trials.get(folder.run_id, ())))


def _caches_of(run: StoredFolder) -> set[str]:
    """The names of the folders that a run was trained on; that of its tokens is the beginning of their fingerprint."""
    data = run.record.get("data")
    if not isinstance(data, dict) or run.kind == "data":
        return set()
    return {str(data.get("fingerprint"))[:32], str(data.get("prepared"))}


def _is_checkpoint(path: Path) -> bool:
    return path.name.removeprefix("step-").isdecimal()


def _folders_in(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.is_dir() and not path.is_symlink())


def _entries(path: Path) -> Iterator[os.DirEntry[str] | Path]:
    """Yields the files below a folder, or the path itself if it is a file."""
    if not path.is_dir() or path.is_symlink():
        yield path
        return
    with contextlib.suppress(OSError), os.scandir(path) as entries:  # a folder that may not be read
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _entries(Path(entry.path))
            else:
                yield entry


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
