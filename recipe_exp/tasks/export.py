"""`task=export`: a run's model as a plain transformers folder for others, certified, with a model card."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rich.console import Console

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.task import ExportTask
from recipe_exp.tasks.trained.loading import open_run, run_config, warn_of_unknown_base
from recipe_exp.tasks.trained.publishing import Wishes, print_verdict, publish, refuse_used

FOLDER = "export"


def run(config: ExperimentConfig) -> int:
    """Exports and returns the process's exit code."""
    task = config.task
    assert isinstance(task, ExportTask)
    console = Console(soft_wrap=True, markup=False)
    stored = open_run(config.output_dir, task.run)
    target = Path(task.output) if task.output is not None else stored.folder.path / FOLDER
    refuse_used(target)
    warn_of_unknown_base(stored.model)
    wishes = Wishes(task.dtype, task.license, task.ctranslate2)
    certificate = publish(stored, run_config(stored, config), target, wishes, console)
    print_verdict(console, target, certificate)
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
    target = Path(folder) if folder is not None else stored.folder.path / FOLDER
    config = stored.config.model_copy(update={"output_dir": str(output_dir)})
    publish(stored, config, target, Wishes(dtype, license, ctranslate2), Console(quiet=True))
    return target
