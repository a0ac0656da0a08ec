"""`task=ui`: the MLflow UI on the runs under `output_dir`."""

from __future__ import annotations

from pathlib import Path

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.task import UiTask
from recipe_exp.tracking import serve_ui


def run(config: ExperimentConfig) -> int:
    """Becomes the server; returns only if it cannot start."""
    assert isinstance(config.task, UiTask)
    print(f"MLflow UI on http://{config.task.host}:{config.task.port} (Ctrl-C ends it)", flush=True)
    serve_ui(Path(config.output_dir), config.task.host, config.task.port)
