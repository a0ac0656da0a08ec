"""`task=export`: a run's model as a plain transformers folder for others, certified, with a model card."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rich.console import Console

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.task import ExportTask
from recipe_exp.tasks.trained.loading import open_run, run_config
from recipe_exp.tasks.trained.publishing import Wishes, publish

FOLDER = "export"


def run(config: ExperimentConfig) -> int:
    """Exports and returns the process's exit code."""
    task = config.task
    assert isinstance(task, ExportTask)
    stored = open_run(config.output_dir, task.run)
    folder, wishes = task.output or stored.folder.path / FOLDER, Wishes(task.dtype, task.license, task.ctranslate2)
    publish(stored, run_config(stored, config), folder, wishes, Console(soft_wrap=True, markup=False))
    return 0


def export(
    reference: str | Path,
    folder: str | Path | None = None,
    *,
    output_dir: str | Path = "outputs",
    dtype: Literal["fp32", "bf16"] = "fp32",
    license: str | None = None,
    ctranslate2: bool = False,
) -> Path:
    """Writes a run's model, merged if it is an adapter, as a certified transformers folder, and returns the folder.

    Args:
        reference: a run folder, a run id or its start, a run name, or `latest`.
        folder: where to; None is `export/` in the run folder.
        output_dir: where runs are looked for.
        dtype: of the written weights.
        license: for the model card; None leaves it unknown.
        ctranslate2: whether it is converted for CTranslate2 too, into `ctranslate2/` in the folder.

    Raises:
        ExportError: if what was written is not the model that was trained.
        ModelError: if the model's base is missing or another one, or the folder is in use.
    """
    stored = open_run(output_dir, str(reference))
    config = stored.config.model_copy(update={"output_dir": str(output_dir)})
    wishes = Wishes(dtype, license, ctranslate2)
    return publish(stored, config, folder or stored.folder.path / FOLDER, wishes, Console(quiet=True))
