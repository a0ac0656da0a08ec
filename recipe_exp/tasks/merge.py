"""`task=merge`: a run's LoRA adapter added to its base, as a plain transformers model, certified."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rich.console import Console

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.task import MergeTask
from recipe_exp.errors import ModelError
from recipe_exp.tasks.trained.loading import StoredRun, open_run, run_config, warn_of_unknown_base
from recipe_exp.tasks.trained.publishing import Wishes, print_verdict, publish, refuse_used

FOLDER = "merged"


def run(config: ExperimentConfig) -> int:
    """Merges and returns the process's exit code."""
    task = config.task
    assert isinstance(task, MergeTask)
    console = Console(soft_wrap=True, markup=False)
    stored = open_run(config.output_dir, task.run)
    _refuse_plain(stored)
    target = Path(task.output) if task.output is not None else stored.folder.path / FOLDER
    refuse_used(target)
    warn_of_unknown_base(stored.model)
    certificate = publish(stored, run_config(stored, config), target, Wishes(task.dtype, task.license), console)
    print_verdict(console, target, certificate)
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
    target = Path(folder) if folder is not None else stored.folder.path / FOLDER
    config = stored.config.model_copy(update={"output_dir": str(output_dir)})
    publish(stored, config, target, Wishes(dtype, license), Console(quiet=True))
    return target


def _refuse_plain(stored: StoredRun) -> None:
    if not (stored.model / "adapter_config.json").is_file():
        raise ModelError(f"{stored.model}: not an adapter; its model is plain already, and task=export publishes it")
