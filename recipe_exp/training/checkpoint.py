"""Checkpoints on disk: complete or absent."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from recipe_exp.errors import CheckpointError
from recipe_exp.files import flush_to_disk, free_bytes, reason_of, size_text
from recipe_exp.training.manifest import MANIFEST, Manifest

OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
_PREFIX = "step-"
_TEMPORARY = ".partial"
_REPLACED = ".replaced"
# Room for what stands beside the tensors: state, model configuration and tokenizer.
_SMALL_FILES_BYTES = 4 * 1024**2

T = TypeVar("T")


@dataclass(frozen=True)
class Checkpoint:
    """One complete checkpoint, read back.

    Attributes:
        path: its folder.
        weights: tuned weights by name, mapped from the file: copy them, or the file keeps its room on the disk.
        optimizer: moments by name, mapped likewise.
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
    weights: Mapping[str, torch.Tensor],
    optimizer: Mapping[str, torch.Tensor],
    state: dict[str, Any],
    describe: Callable[[Path], None] | None = None,
) -> Path:
    """Writes `folder/step-NNNNNNNN/`, in the place of one of that name, and returns it.

    Everything is written to a folder aside and flushed to disk, the manifest with every file's sha256 last; then the
    folder is renamed. A reader sees all of it or nothing. Nothing is written where the disk has no room for it.

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
    temporary = folder / f"{final.name}{_TEMPORARY}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        _refuse_without_room(final, [*weights.values(), *optimizer.values()])
        _make_folder(folder)
        temporary.mkdir()
        (temporary / STATE).write_text(json.dumps(state), encoding="utf-8")
        for name, tensors in ((weights_file, weights), (OPTIMIZER, optimizer)):
            save_file(dict(tensors), temporary / name, metadata={"format": "pt"})
            # The library lets only the owner read; whoever may read the rest may read the weights.
            shutil.copymode(temporary / STATE, temporary / name)
        if describe is not None:
            describe(temporary)
        Manifest.of_files(temporary, step, sorted(file.name for file in temporary.iterdir())).write()
        replaced = folder / f"{final.name}{_REPLACED}"
        if final.is_dir():
            final.rename(replaced)
        temporary.rename(final)
        flush_to_disk(folder)
        shutil.rmtree(replaced, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"{final}: cannot be written ({reason_of(error)}); earlier checkpoints are intact"
        ) from None
    return final


def find_newest(
    folder: Path, weights_file: str, *, is_strict: bool, report: Callable[[str], None]
) -> Checkpoint | None:
    """Returns the newest checkpoint that is whole, read back; None where there is none at all.

    Every file of it is hashed once, and its tensors are mapped from the file that was hashed.

    Args:
        folder: `checkpoints/` of a run.
        weights_file: name of the file with the weights.
        is_strict: whether a damaged newest one is refused instead of passed over.
        report: gets one line for each damaged one that is passed over.

    Raises:
        CheckpointError: if all are damaged, or the newest one is and that is refused.
    """
    found, damages = _newest(folder, lambda path: read_checkpoint(path, weights_file))
    if not damages:
        return found
    if found is None:
        raise CheckpointError(
            f"{damages[0]}, and no other checkpoint is whole; put the file back from a copy, or start a run of its own "
            "without resume=..."
        )
    if is_strict:
        raise CheckpointError(
            f"resume_strict=true: {damages[0]}; put the file back from a copy, or continue from {found.path.name} "
            "with resume_strict=false"
        )
    for damage in damages:
        report(f"warning: {damage}; falling back to {found.path.name}")
    return found


def read_checkpoint(path: Path, weights_file: str) -> Checkpoint:
    """Reads a checkpoint, every file of which is checked against the manifest. Nothing in it is executed.

    Raises:
        CheckpointError: naming the first file that is missing or damaged.
    """
    manifest = _manifest_of(path, weights_file, OPTIMIZER, STATE)
    tensors: dict[str, dict[str, torch.Tensor]] = {}
    state: dict[str, Any] = {}
    for name in manifest.files:
        if name in (weights_file, OPTIMIZER):
            tensors[name] = manifest.read_file(name, load_file)
        elif name == STATE:
            state = manifest.read_file(name, lambda file: json.loads(file.read_bytes()))
        else:
            manifest.check_file(name)
    return Checkpoint(path, tensors[weights_file], tensors[OPTIMIZER], state)


def verify(path: Path) -> None:
    """Checks every file of a checkpoint against its manifest; a file that it does not list is nobody's business.

    Raises:
        CheckpointError: naming the first file that is missing or damaged.
    """
    manifest = _manifest_of(path, OPTIMIZER, STATE)
    for name in manifest.files:
        manifest.check_file(name)


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

    def verified(path: Path) -> Path:
        verify(path)
        return path

    return _newest(folder, verified)


def remove_leftovers(folder: Path) -> list[Path]:
    """Removes what an interrupted save or removal left aside and returns the paths.

    A checkpoint that was to be replaced, but was not yet, gets its name back.
    """
    if not folder.is_dir():
        return []
    for path in folder.glob(f"{_PREFIX}*{_REPLACED}"):
        final = path.with_name(path.name.removesuffix(_REPLACED))
        if not final.exists():
            path.rename(final)
    leftovers = [path for ending in (_TEMPORARY, _REPLACED) for path in folder.glob(f"{_PREFIX}*{ending}")]
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


def _manifest_of(path: Path, *names: str) -> Manifest:
    """Returns the manifest of the checkpoint that the folder's name promises, which lists these files at least."""
    manifest = Manifest.read(path)
    if manifest.step != step_of(path):
        raise CheckpointError(f"{path / MANIFEST}: damaged (it is that of step {manifest.step})")
    for name in names:
        if name not in manifest.files:
            raise CheckpointError(f"{path / name}: missing")
    return manifest


def _newest(folder: Path, examine: Callable[[Path], T]) -> tuple[T | None, list[str]]:
    """Returns what `examine` makes of the newest checkpoint that it does not refuse, and why it refused newer ones."""
    complaints: list[str] = []
    for path in reversed(list_checkpoints(folder)):
        try:
            return examine(path), complaints
        except CheckpointError as error:
            complaints.append(str(error))
    return None, complaints


def _is_final(path: Path) -> bool:
    return path.name.startswith(_PREFIX) and path.name.removeprefix(_PREFIX).isdecimal() and path.is_dir()


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True)
        flush_to_disk(folder.parent)


def _refuse_without_room(final: Path, tensors: list[torch.Tensor]) -> None:
    needed = sum(tensor.nbytes for tensor in tensors) + _SMALL_FILES_BYTES
    free = free_bytes(final.parent)
    if free is not None and free < needed:
        raise CheckpointError(
            f"{final}: not written, since it takes {size_text(needed)} and {size_text(free)} are free; earlier "
            "checkpoints are intact"
        )


def _remove(path: Path) -> None:
    """Removes a checkpoint, if there is one; half of one never bears its name."""
    aside = path.with_name(f"{path.name}.removed{_TEMPORARY}")
    shutil.rmtree(aside, ignore_errors=True)
    if path.is_dir():
        path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
