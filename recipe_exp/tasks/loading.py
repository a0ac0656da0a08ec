"""Finding what a run left behind: its configuration, its best model, and a writer of recipes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from recipe_exp.config.compose import compose
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.data.prompts import find_template
from recipe_exp.errors import CheckpointError
from recipe_exp.evaluation.writer import RecipeWriter
from recipe_exp.hardware.detect import resolve_device
from recipe_exp.tracking import RunFolder, find_run
from recipe_exp.training.checkpoint import newest_sound


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
    folder = find_run(Path(output_dir), reference)
    config = ExperimentConfig.from_yaml(folder.config_path)
    if folder.model_path.is_dir():
        return StoredRun(folder, config, folder.model_path)
    newest, _ = newest_sound(folder.checkpoints_path)
    if newest is None:
        raise CheckpointError(f"{folder.path}: no model and no checkpoint yet; continue it with resume={folder.run_id}")
    return StoredRun(folder, config, newest)


def load(reference: str | Path, output_dir: str | Path = "outputs", *, device: str = "auto") -> RecipeWriter:
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
    is_model = any((folder / name).is_file() for name in ("config.json", "adapter_config.json"))
    config = compose() if is_model else None
    if config is None:
        stored = open_run(output_dir, str(reference))
        folder, config = stored.model, stored.config
    return RecipeWriter.from_folder(
        folder,
        template=find_template(config.data.prompt),
        max_source_tokens=config.data.max_source_tokens,
        max_new_tokens=config.evaluation.max_new_tokens,
        num_beams=config.evaluation.num_beams,
        device=resolve_device(device),  # type: ignore[arg-type]
    )
