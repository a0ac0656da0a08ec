"""`task=merge`: a run's LoRA adapter added to its base, as a plain transformers model, certified."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rich.console import Console

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.task import MergeTask
from recipe_exp.errors import ModelError
from recipe_exp.tasks.trained.loading import StoredRun, open_run, run_config
from recipe_exp.tasks.trained.publishing import Wishes, publish

FOLDER = "merged"


def run(config: ExperimentConfig) -> int:
    """Merges and returns the process's exit code."""
    task = config.task
    assert isinstance(task, MergeTask)
    stored = open_run(config.output_dir, task.run)
    _refuse_plain(stored)
    folder, wishes = task.output or stored.folder.path / FOLDER, Wishes(task.dtype, task.license)
    publish(stored, run_config(stored, config), folder, wishes, Console(soft_wrap=True, markup=False))
    return 0


def merge(
    reference: str | Path,
    folder: str | Path | None = None,
    *,
    output_dir: str | Path = "outputs",
    dtype: Literal["fp32", "bf16"] = "fp32",
    license: str | None = None,
) -> Path:
    """Writes the merged model and returns its folder.

    Args:
        reference: a run folder, a run id or its start, a run name, or `latest`.
        folder: where to; None is `merged/` in the run folder.
        output_dir: where runs are looked for.
        dtype: of the written weights.
        license: for the model card; None leaves it unknown.

    Raises:
        ExportError: if what was written is not the model that was trained.
        ModelError: if the run has no adapter, its base is missing or another one, or the folder is in use.
    """
    stored = open_run(output_dir, str(reference))
    _refuse_plain(stored)
    config = stored.config.model_copy(update={"output_dir": str(output_dir)})
    return publish(stored, config, folder or stored.folder.path / FOLDER, Wishes(dtype, license), Console(quiet=True))


def _refuse_plain(stored: StoredRun) -> None:
    if not (stored.model / "adapter_config.json").is_file():
        raise ModelError(f"{stored.model}: not an adapter; its model is plain already, and task=export publishes it")
