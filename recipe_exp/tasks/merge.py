"""`task=merge`: a run's LoRA adapter added to its base, as a plain transformers model."""

from __future__ import annotations

from pathlib import Path

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.task import MergeTask
from recipe_exp.models.finetuned import merge_to_folder
from recipe_exp.tasks.loading import StoredRun, open_run, warn_of_unknown_base


def run(config: ExperimentConfig) -> int:
    """Merges and returns the process's exit code."""
    assert isinstance(config.task, MergeTask)
    stored = open_run(config.output_dir, config.task.run)
    warn_of_unknown_base(stored.model)
    folder = _merge(stored, config.task.output)
    print(f"merged model in {folder}")
    return 0


def merge(reference: str | Path, folder: str | Path | None = None, *, output_dir: str | Path = "outputs") -> Path:
    """Writes the merged model in fp32 and returns its folder.

    Args:
        reference: a run folder, a run id or its start, a run name, or `latest`.
        folder: where to; None is `merged/` in the run folder.
        output_dir: where runs are looked for.

    Raises:
        ModelError: if the run has no adapter, its base is missing, or the folder is in use.
    """
    return _merge(open_run(output_dir, str(reference)), folder)


def _merge(stored: StoredRun, folder: str | Path | None) -> Path:
    target = Path(folder) if folder is not None else stored.folder.path / "merged"
    merge_to_folder(stored.model, target)
    return target
