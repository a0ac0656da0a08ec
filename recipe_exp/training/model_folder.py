"""The run's `model/` folder: what can be loaded of one checkpoint."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from recipe_exp.errors import CheckpointError
from recipe_exp.files import flush_to_disk
from recipe_exp.training.checkpoint import OPTIMIZER, STATE
from recipe_exp.training.manifest import MANIFEST, Entry, Manifest


def publish_model(source: Path, model: Path) -> None:
    """Makes `model` the loadable part of a checkpoint: of the files that its manifest lists, and of no others.

    Weights are hard-linked where the disk allows it; the small files, which people edit, are copied. The model's own
    manifest lists the weights.

    Raises:
        CheckpointError: if the checkpoint has no manifest.
        OSError: if the disk refuses; the model before is still there.
    """
    manifest = Manifest.read(source)
    aside, previous = _asides(model)
    remove_leftovers(model)
    aside.mkdir(parents=True)
    for name in manifest.files:
        if name not in (OPTIMIZER, STATE):
            place = _link_or_copy if name in _weights(manifest) else shutil.copy2
            place(source / name, aside / name)
            flush_to_disk(aside / name)
    Manifest(aside, manifest.step, _weights(manifest)).write()
    if model.exists():
        model.rename(previous)
    aside.rename(model)
    flush_to_disk(model.parent)
    shutil.rmtree(previous, ignore_errors=True)


def is_published(source: Path, model: Path) -> bool:
    """Returns whether `model` was made of this checkpoint, going by the manifests alone."""
    try:
        wanted, found = Manifest.read(source), Manifest.read(model)
    except CheckpointError:
        return False
    return (found.step, found.files) == (wanted.step, _weights(wanted))


def verify_model(model: Path) -> None:
    """Checks the weights of a model that a run published; one without a manifest came from elsewhere and passes.

    Raises:
        CheckpointError: naming the file that is missing or damaged.
    """
    if not (model / MANIFEST).is_file():
        return
    manifest = Manifest.read(model)
    for name in manifest.files:
        manifest.check_file(name)


def remove_leftovers(model: Path) -> None:
    """Removes what a kill while the model was replaced left beside it."""
    for path in _asides(model):
        shutil.rmtree(path, ignore_errors=True)


def _asides(model: Path) -> tuple[Path, Path]:
    return model.with_name(model.name + ".partial"), model.with_name(model.name + ".previous")


def _weights(manifest: Manifest) -> dict[str, Entry]:
    return {
        name: entry for name, entry in manifest.files.items() if name.endswith(".safetensors") and name != OPTIMIZER
    }


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
