from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recipe_exp.errors import CheckpointError
from recipe_exp.tracking import RunFolder, find_run


@pytest.fixture
def sweep(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path, run_name="rates", kind="sweep", command=[])


def trial(sweep: RunFolder, value: float | None, metric: str = "eval/loss", **fields: Any) -> RunFolder:
    folder = RunFolder.create(sweep.output_dir, run_name="trial", command=[], parent_run_id=sweep.run_id)
    best = None if value is None else {"metric": metric, "value": value, "step": 4}
    folder.update_record(**({"status": "finished", "best": best} | fields))
    return folder


def test_the_best_trial_is_the_best_finished_one(sweep: RunFolder) -> None:
    trial(sweep, 2.0)
    best = trial(sweep, 1.0)
    trial(sweep, 0.5, status="failed")
    trial(sweep, 0.4, stop_reason="pruned")
    trial(sweep, None)
    trial(sweep, 0.1, parent_run_id="another")
    for reference in ("best:rates", f"best:{sweep.run_id}", "best:latest", f"best:{sweep.path}"):
        assert find_run(sweep.output_dir, reference).path == best.path


def test_a_higher_score_is_better_where_it_is(sweep: RunFolder) -> None:
    trial(sweep, 0.2, "eval/rougeL")
    best = trial(sweep, 0.4, "eval/rougeL")
    assert find_run(sweep.output_dir, "best:latest").path == best.path


def test_what_has_no_best_trial_is_one_line(sweep: RunFolder) -> None:
    with pytest.raises(CheckpointError, match="has finished and was evaluated"):
        find_run(sweep.output_dir, "best:rates")
    alone = trial(sweep, 1.0)
    with pytest.raises(CheckpointError, match="is no sweep"):
        find_run(sweep.output_dir, f"best:{alone.run_id}")
    trial(sweep, 1.0, "eval/rougeL")
    with pytest.raises(CheckpointError, match="different metrics"):
        find_run(sweep.output_dir, "best:rates")
    with pytest.raises(CheckpointError, match="no such run"):
        find_run(sweep.output_dir, "best:nothing")
