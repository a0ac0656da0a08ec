"""Checkpoints on disk: complete or absent."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from recipe_exp.errors import CheckpointError
from recipe_exp.files import flush_to_disk

MANIFEST = "manifest.json"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
_PREFIX = "step-"
_TEMPORARY = ".partial"
_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True)
class Checkpoint:
    """One complete checkpoint, read back.

    Attributes:
        path: its folder.
        weights: tuned weights by name.
        optimizer: moments by name.
        state: position, callbacks' state, resolved configuration and fingerprints, as plain data.
    """

    path: Path
    weights: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    state: dict[str, Any]


def write_checkpoint(
    folder: Path,
    step: int,
    *,
    weights_file: str,
    weights: dict[str, torch.Tensor],
    optimizer: dict[str, torch.Tensor],
    state: dict[str, Any],
    describe: Callable[[Path], None] | None = None,
) -> Path:
    """Writes `folder/step-NNNNNNNN/` and returns it.

    Everything is written to a folder aside and flushed to disk, the manifest with every file's sha256 last; then the
    folder is renamed. A reader sees all of it or nothing.

    Args:
        folder: `checkpoints/` of a run.
        step: steps done.
        weights_file: name of the file for the weights.
        weights: tuned weights.
        optimizer: moments.
        state: plain JSON data.
        describe: writes further files into the checkpoint, such as the model's configuration.

    Raises:
        CheckpointError: if the disk refuses; what was there before is untouched.
    """
    final = folder / folder_name(step)
    if is_sound(final):
        return final
    temporary = folder / f"{final.name}{_TEMPORARY}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file(weights, temporary / weights_file, metadata={"format": "pt"})
        save_file(optimizer, temporary / OPTIMIZER)
        (temporary / STATE).write_text(json.dumps(state), encoding="utf-8")
        if describe is not None:
            describe(temporary)
        _write_manifest(temporary, step)
        _remove(final)
        temporary.rename(final)
        flush_to_disk(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(f"{final}: cannot be written ({error}); earlier checkpoints are intact") from None
    return final


def read_checkpoint(path: Path, weights_file: str) -> Checkpoint:
    """Reads a checkpoint after checking every file against the manifest. Nothing in it is executed.

    Raises:
        CheckpointError: naming the first file that is missing or damaged.
    """
    verify(path)
    for name in (weights_file, OPTIMIZER, STATE):
        if not (path / name).is_file():
            raise CheckpointError(f"{path / name}: missing")
    try:
        return Checkpoint(
            path=path,
            weights=load_file(path / weights_file),
            optimizer=load_file(path / OPTIMIZER),
            state=json.loads((path / STATE).read_text(encoding="utf-8")),
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None


def verify(path: Path) -> None:
    """Checks every file of a checkpoint against its manifest.

    Raises:
        CheckpointError: naming the first file that is missing or damaged.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        files = manifest["files"]
        sums = {name: str(entry["sha256"]) for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{path / MANIFEST}: missing or damaged") from None
    for name, expected in sums.items():
        file = path / name
        if not file.is_file() or _sha256(file) != expected:
            raise CheckpointError(f"{file}: {'damaged' if file.is_file() else 'missing'}")


def is_sound(path: Path) -> bool:
    """Returns whether a checkpoint is there and every file of it is as it was written."""
    try:
        verify(path)
    except CheckpointError:
        return False
    return True


def list_checkpoints(folder: Path) -> list[Path]:
    """Returns the checkpoints of a run, oldest first, damaged ones among them."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _is_final(path)), key=step_of)


def newest_sound(folder: Path) -> tuple[Path | None, list[str]]:
    """Returns the newest checkpoint that verifies, and one line for every newer one that does not."""
    complaints = []
    for path in reversed(list_checkpoints(folder)):
        try:
            verify(path)
        except CheckpointError as error:
            complaints.append(str(error))
            continue
        return path, complaints
    return None, complaints


def remove_leftovers(folder: Path) -> list[Path]:
    """Removes what an interrupted save or removal left aside and returns the paths."""
    leftovers = list(folder.glob(f"{_PREFIX}*{_TEMPORARY}")) if folder.is_dir() else []
    for path in leftovers:
        shutil.rmtree(path, ignore_errors=True)
    return leftovers


def prune(folder: Path, keep: set[str]) -> None:
    """Removes every checkpoint whose folder's name is not in `keep`."""
    for path in list_checkpoints(folder):
        if path.name not in keep:
            with suppress(OSError):
                _remove(path)


def folder_name(step: int) -> str:
    """Returns the name of a checkpoint's folder."""
    return f"{_PREFIX}{step:08d}"


def step_of(path: Path) -> int:
    """Returns the step in a checkpoint's name."""
    return int(path.name.removeprefix(_PREFIX))


def _is_final(path: Path) -> bool:
    return path.name.startswith(_PREFIX) and path.name.removeprefix(_PREFIX).isdigit() and path.is_dir()


def _remove(path: Path) -> None:
    """Removes a checkpoint, if there is one; half of one never bears its name."""
    aside = path.with_name(f"{path.name}.removed{_TEMPORARY}")
    shutil.rmtree(aside, ignore_errors=True)
    if path.is_dir():
        path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def _write_manifest(folder: Path, step: int) -> None:
    files = {}
    for file in _files(folder):
        files[file.name] = {"bytes": file.stat().st_size, "sha256": _sha256(file)}
        flush_to_disk(file)
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"format": 1, "step": step, "files": files}, indent=1), encoding="utf-8")
    flush_to_disk(manifest)
    flush_to_disk(folder)


def _files(folder: Path) -> Iterator[Path]:
    yield from sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
