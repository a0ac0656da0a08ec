"""`task=sync`: what the tracking server lacks of runs' journals."""

from __future__ import annotations

from pathlib import Path

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.task import SyncTask
from recipe_exp.errors import TrackingError
from recipe_exp.tracking import find_run, list_runs, sync


def run(config: ExperimentConfig) -> int:
    """Sends what is missing and returns the process's exit code."""
    assert isinstance(config.task, SyncTask)
    output_dir = Path(config.output_dir)
    names = config.task.runs
    folders = [find_run(output_dir, name) for name in names] if names else list_runs(output_dir)
    failures = []
    for folder in reversed(folders):
        try:
            report = sync(folder, config.tracking.uri, config.tracking.experiment)
        except TrackingError as error:
            failures.append(str(error))
            continue
        print(f"{folder.path.name}: {report.num_metrics} metric values, {report.num_artifacts} files sent")
        for reason in report.refusals:
            print(f"  refused: {reason}")
    if failures:
        raise TrackingError("\n".join(failures))
    return 0
