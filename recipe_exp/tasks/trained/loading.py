"""Finding what a run left behind: its configuration, its best model, and a writer of recipes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from recipe_exp.config.compose import compose
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.hardware import HardwareConfig
from recipe_exp.config.relevance import overlay
from recipe_exp.data.prompts import find_template
from recipe_exp.errors import CheckpointError, DataError
from recipe_exp.evaluation.evaluator import sampling_of
from recipe_exp.evaluation.writer import RecipeWriter
from recipe_exp.files import write_result
from recipe_exp.hardware.detect import resolve_device, resolve_precision
from recipe_exp.models.base_weights import BASE_FILE, read_facts
from recipe_exp.models.quantized import is_available
from recipe_exp.tasks.places import is_model_folder
from recipe_exp.tasks.trained.model_folders import config_of
from recipe_exp.tracking import RunFolder, find_run, list_runs
from recipe_exp.training.checkpoint import newest_sound
from recipe_exp.training.model_folder import verify_model

Device = Literal["auto", "cpu", "cuda"]

# How a run came to its model is nothing that using the model repeats.
_NOT_RESUMED = {"resume": None, "resume_strict": False, "resume_allow": (), "resume_schedule": None}


@dataclass(frozen=True)
class StoredRun:
    """A run on disk.

    Attributes:
        folder: the run folder.
        config: the configuration it was run with.
        model: folder of its best model; of its newest checkpoint if nothing was evaluated yet.
    """

    folder: RunFolder
    config: ExperimentConfig
    model: Path


def open_run(output_dir: str | Path, reference: str) -> StoredRun:
    """Returns the run that a reference names.

    Args:
        output_dir: where runs are looked for.
        reference: a run folder, a run id or its start, a run name, or `latest`.

    Raises:
        CheckpointError: if there is no such run, it has no model yet, or its model is damaged.
    """
    folder = _newest_with_model(Path(output_dir)) if reference == "latest" else find_run(Path(output_dir), reference)
    config = ExperimentConfig.from_yaml(folder.config_path)
    if folder.model_path.is_dir():
        _refuse_damaged(folder.model_path)
        return StoredRun(folder, config, folder.model_path)
    newest, damages = newest_sound(folder.checkpoints_path)
    if newest is None:
        found = f"{damages[0]}; no model and no whole checkpoint" if damages else "no model and no checkpoint yet"
        raise CheckpointError(f"{folder.path}: {found}; continue it with resume={folder.run_id}")
    for damage in damages:
        print(f"warning: {damage}; falling back to {newest.name}", file=sys.stderr)
    return StoredRun(folder, config, newest)


def _refuse_damaged(model: Path) -> None:
    try:
        verify_model(model)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; put the file back from a copy, or train again") from None


def _newest_with_model(output_dir: Path) -> RunFolder:
    """A run that failed before its first checkpoint has nothing to load."""
    runs = list_runs(output_dir, kind="run")
    usable = (folder for folder in runs if folder.model_path.is_dir() or any(folder.checkpoints_path.glob("step-*")))
    return next(usable, None) or find_run(output_dir, "latest")


def warn_of_unknown_base(model: Path) -> None:
    """Says on standard error that nothing is stored of the base that a folder's adapter was trained on."""
    if (model / "adapter_config.json").is_file() and not (model / BASE_FILE).is_file():
        print(f"note: {model}: stores no fingerprint of its base, so the base is taken as it is", file=sys.stderr)


def tell_of_quantized_base(model: Path, precision: str) -> None:
    """Says on standard error in what precision the base of an adapter is held that was trained over a quantised one.

    Args:
        model: folder of the model.
        precision: resolved, of the computation.
    """
    quantization = read_facts(model).quantization
    if quantization == "none":
        return
    if is_available():
        print(f"note: the base is held in {quantization}, as the adapter was trained over it", file=sys.stderr)
        return
    held = "bf16" if precision == "bf16" else "fp32"
    print(
        f"note: the base is held in {held}, though the adapter was trained over it in {quantization}, since "
        "bitsandbytes is not installed; scores and recipes differ a little from those of training",
        file=sys.stderr,
    )


def run_config(stored: StoredRun, given: ExperimentConfig) -> ExperimentConfig:
    """Returns the run's configuration with the keys that a command gave beside it, and this machine's hardware."""
    return config_beside(stored.config, given)


def config_beside(config: ExperimentConfig, given: ExperimentConfig) -> ExperimentConfig:
    """Returns a stored configuration with the keys that a command gave beside it, and this machine's hardware."""
    own = config.model_copy(update={"hardware": HardwareConfig(), **_NOT_RESUMED})
    places = {"output_dir": given.output_dir, "task": given.task, "model": config.model}
    return overlay(own, given, compose()).model_copy(update=places)


def load(reference: str | Path, output_dir: str | Path = "outputs", *, device: Device = "auto") -> RecipeWriter:
    """Returns a writer of recipes: `load("latest").generate(["Write a recipe for pancakes."])`.

    Args:
        reference: a run folder, a run id or its start, a run name, `latest`, or a folder with a plain T5 or LoRA model.
        output_dir: where runs are looked for.
        device: `auto`, `cpu` or `cuda`.

    Raises:
        CheckpointError: if there is no such run or it has no model yet.
        ModelError: if the model cannot be loaded.
    """
    model, config = open_model(output_dir, str(reference))
    return writer_of(model, config, device)


def open_model(output_dir: str | Path, reference: str) -> tuple[Path, ExperimentConfig]:
    """Returns the folder of a model and the configuration with which it is used.

    Args:
        output_dir: where runs are looked for.
        reference: as `load` takes it.

    Raises:
        CheckpointError: if there is no such run, it has no model yet, or the model is damaged.
    """
    if not is_model_folder(reference):
        stored = open_run(output_dir, reference)
        return stored.model, stored.config
    _refuse_damaged(Path(reference))
    return Path(reference), config_of(Path(reference))


def writer_of(model: Path, config: ExperimentConfig, device: Device) -> RecipeWriter:
    """Returns a writer with the settings of a configuration."""
    data, evaluation = config.data, config.evaluation
    resolved = resolve_device(device)
    tell_of_quantized_base(model, resolve_precision("auto", resolved))
    writer = RecipeWriter.from_folder(
        model,
        template=find_template(data.prompt, data.templates),
        max_source_tokens=data.max_source_tokens,
        max_new_tokens=evaluation.max_new_tokens,
        num_beams=evaluation.num_beams,
        device=resolved,
        precision=resolve_precision("auto", resolved),
    )
    return replace(writer, sampling=sampling_of(evaluation))


def prepare_output(path: Path) -> None:
    """Makes the folder of a file that will be written at the end of a long computation.

    Raises:
        DataError: if the file cannot be written.
    """
    is_there = os.path.lexists(path)
    with _write_errors_in_one_line(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a", encoding="utf-8").close()
        if not is_there:
            path.unlink()


def write_output(path: Path, text: str) -> None:
    """Writes that file; what was there before stays until it is replaced by the whole of this.

    Raises:
        DataError: if the disk refuses.
    """
    with _write_errors_in_one_line(path):
        write_result(path, text.encode())


@contextmanager
def _write_errors_in_one_line(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"task.output={path}: cannot be written ({error.strerror}); choose another file") from None
