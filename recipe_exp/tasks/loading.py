"""Finding what a run left behind: its configuration, its best model, and a writer of recipes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recipe_exp.config.compose import compose
from recipe_exp.config.data import DataConfig
from recipe_exp.config.evaluation import EvaluationConfig
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.hardware import HardwareConfig
from recipe_exp.config.relevance import overlay
from recipe_exp.data.prompts import find_template
from recipe_exp.errors import CheckpointError, DataError
from recipe_exp.evaluation.writer import RecipeWriter
from recipe_exp.hardware.detect import resolve_device, resolve_precision
from recipe_exp.tracking import RunFolder, find_run, list_runs
from recipe_exp.training.checkpoint import newest_sound

Device = Literal["auto", "cpu", "cuda"]


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
        CheckpointError: if there is no such run or it has no model yet.
    """
    folder = _newest_with_model(Path(output_dir)) if reference == "latest" else find_run(Path(output_dir), reference)
    config = ExperimentConfig.from_yaml(folder.config_path)
    if folder.model_path.is_dir():
        return StoredRun(folder, config, folder.model_path)
    newest, _ = newest_sound(folder.checkpoints_path)
    if newest is None:
        raise CheckpointError(f"{folder.path}: no model and no checkpoint yet; continue it with resume={folder.run_id}")
    return StoredRun(folder, config, newest)


def _newest_with_model(output_dir: Path) -> RunFolder:
    """A run that failed before its first checkpoint has nothing to load."""
    runs = list_runs(output_dir, kind="run")
    usable = (folder for folder in runs if folder.model_path.is_dir() or any(folder.checkpoints_path.glob("step-*")))
    return next(usable, None) or find_run(output_dir, "latest")


def run_config(stored: StoredRun, given: ExperimentConfig) -> ExperimentConfig:
    """Returns the run's configuration with the keys that a command gave beside it, and this machine's hardware."""
    config = overlay(stored.config.model_copy(update={"hardware": HardwareConfig()}), given, compose())
    places = {"output_dir": given.output_dir, "task": given.task, "model": stored.config.model}
    return config.model_copy(update=places)


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
    folder = Path(reference)
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        stored = open_run(output_dir, str(reference))
        return writer_of(stored.model, stored.config, device)
    beside = folder.absolute().parent / "config.yaml"
    return writer_of(folder, ExperimentConfig.from_yaml(beside) if beside.is_file() else None, device)


def writer_of(model: Path, config: ExperimentConfig | None, device: Device) -> RecipeWriter:
    """Returns a writer with a run's settings; without a run, with those of a pretrained model."""
    data = config.data if config else DataConfig()
    evaluation = config.evaluation if config else EvaluationConfig()
    resolved = resolve_device(device)
    return RecipeWriter.from_folder(
        model,
        template=find_template(data.prompt),
        max_source_tokens=data.max_source_tokens,
        max_new_tokens=evaluation.max_new_tokens,
        num_beams=evaluation.num_beams,
        device=resolved,
        precision=resolve_precision("auto", resolved),
    )


def prepare_output(path: Path) -> None:
    """Makes the folder of a file that will be written at the end of a long computation.

    Raises:
        DataError: if it cannot be made or written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a", encoding="utf-8").close()
    except OSError as error:
        raise DataError(f"task.output={path}: cannot be written ({error.strerror}); choose another file") from None
