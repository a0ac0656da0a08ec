"""Whether a run's checkpoints have room on its disk, known before the model is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.training import LoraConfig
from recipe_exp.errors import CheckpointError
from recipe_exp.files import free_bytes, size_text
from recipe_exp.models.base_weights import BASE_FOLDER
from recipe_exp.planning.held import checkpoint_bytes
from recipe_exp.planning.parameters import count_parameters
from recipe_exp.training.checkpoint import list_checkpoints


def check_disk_space(
    config: ExperimentConfig, run_folder: Path, total_steps: int, report: Callable[[str], None]
) -> None:
    """Looks whether the checkpoints that will be there at the same time fit beside those that are there now.

    Args:
        config: of the run.
        run_folder: where it is saved.
        total_steps: of the whole run.
        report: gets one line if not all of them fit.

    Raises:
        CheckpointError: if not even one more fits.
    """
    free = free_bytes(run_folder)
    if free is None:
        return
    size = checkpoint_bytes(config.model, config.training)
    free -= _base_bytes(config, run_folder)
    num_kept = num_at_once(config, total_steps)
    num_missing = max(num_kept - len(list_checkpoints(run_folder / "checkpoints")), 1)
    if free < size:
        raise CheckpointError(
            f"output_dir={config.output_dir}: {size_text(max(free, 0))} are free and a checkpoint takes "
            f"{size_text(size)}; free {size_text(num_missing * size - free)}, or set output_dir to another disk"
        )
    if free < num_missing * size:
        report(
            f"warning: output_dir={config.output_dir}: {size_text(free)} are free, and up to {num_kept} checkpoints of "
            f"{size_text(size)} are there at once, the one being written among them; a save that does not fit is left "
            f"out, so free {size_text(num_missing * size - free)}"
        )


def _base_bytes(config: ExperimentConfig, run_folder: Path) -> int:
    """Returns at most what a random base takes, which an adapter's run writes beside its checkpoints."""
    has_adapter = isinstance(config.training.adapter, LoraConfig)
    if not has_adapter or config.model.pretrained or (run_folder / BASE_FOLDER).is_dir():
        return 0
    return 4 * count_parameters(config.model.shape)


def num_at_once(config: ExperimentConfig, total_steps: int) -> int:
    """Returns how many checkpoints are there while one is written: the newest, the best, and that one.

    The run's `model/` shares its files with one of them.
    """
    training, evaluation = config.training, config.evaluation
    is_ranked = config.data.validation_fraction > 0.0
    intervals = [training.checkpoint_every_n_steps, evaluation.every_n_steps if is_ranked else None]
    num_saves = 1 + sum(total_steps // interval for interval in intervals if interval is not None)
    num_best = training.keep_best_n_checkpoints if is_ranked else 0
    return min(num_best + 2, num_saves)
