"""`task=sync`: what the tracking server lacks of runs' journals."""

from __future__ import annotations

import contextlib
from pathlib import Path

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.task import SyncTask
from recipe_exp.errors import TrackingError
from recipe_exp.tracking import (
    RunFolder,
    SyncReport,
    default_uri,
    find_run,
    is_alive,
    is_tracked,
    list_runs,
    mark_interrupted,
    send_leftovers,
    sync,
)

_MAX_FAILURES_IN_A_ROW = 3


def run(config: ExperimentConfig) -> int:
    """Sends what is missing and returns the process's exit code."""
    assert isinstance(config.task, SyncTask)
    output_dir, tracking = Path(config.output_dir), config.tracking
    folders = [find_run(output_dir, name) for name in config.task.runs] or _tracked_runs(output_dir)
    for folder in folders:
        with contextlib.suppress(OSError):  # somebody else's run
            mark_interrupted(folder)
    # A server that a run was sent to before must not call it running for ever, whatever server it is sent to now.
    send_leftovers(folders, tracking.uri or default_uri(output_dir))
    failures: list[str] = []
    num_in_a_row = 0
    for position, folder in enumerate(reversed(folders)):
        try:
            report = sync(folder, tracking.uri, tracking.experiment, round(tracking.max_upload_gb * 1e9))
        except TrackingError as error:
            failures.append(str(error))
            num_in_a_row += 1
            # Each of hundreds of runs would wait for a server that hangs.
            if num_in_a_row == _MAX_FAILURES_IN_A_ROW and position + 1 < len(folders):
                failures.append(f"{_count(len(folders) - position - 1, 'more run')} not tried")
                break
            continue
        num_in_a_row = 0
        _print_report(folder, report)
    if failures:
        raise TrackingError("\n".join(failures))
    return 0


def _tracked_runs(output_dir: Path) -> list[RunFolder]:
    """Every run that was to be tracked and has ended; says which are left out."""
    runs = list_runs(output_dir)
    untracked = [folder for folder in runs if not is_tracked(folder)]
    if untracked:
        few = ", ".join(folder.run_id for folder in untracked[:3]) + (", ..." if len(untracked) > 3 else "")
        print(f"left out {len(untracked)} with tracking.enabled=false: {few}; name them in task.runs to send them")
    going_on = [folder for folder in runs if is_alive(folder)]
    for folder in going_on:
        print(f"{folder.path.name}: is going on, and its own uploader sends it")
    return [folder for folder in runs if folder not in untracked and folder not in going_on]


def _print_report(folder: RunFolder, report: SyncReport) -> None:
    sent = f"{_count(report.num_metrics, 'metric value')}, {_count(report.num_artifacts, 'file')} sent"
    print(f"{folder.path.name}: {sent}, recorded as {report.status}")
    for reason in report.refusals:
        print(f"  refused: {reason}")


def _count(number: int, name: str) -> str:
    return f"{number:,} {name}" + ("s" if number != 1 else "")
