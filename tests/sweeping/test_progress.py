from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from recipe_exp.sweeping.progress import Evaluation, TrialProgress
from recipe_exp.tracking import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path, run_name="run", command=[])


def line(step: int, **metrics: float | None) -> str:
    return (
        json.dumps({"step": step, "time": 0.0, "metrics": {k.replace("_", "/"): v for k, v in metrics.items()}}) + "\n"
    )


def test_evaluations_are_read_once_and_a_torn_line_later(folder: RunFolder) -> None:
    progress = TrialProgress(lambda: folder, "eval/loss", "min")
    assert progress.look() == []
    text = line(10, train_loss=1.0) + line(20, eval_loss=0.5) + line(30, eval_loss=0.7)
    folder.metrics_path.write_text(text + line(40, eval_loss=0.4)[:9])
    assert progress.look() == [Evaluation(20, 0.5), Evaluation(30, 0.7)]
    assert (progress.step, progress.best) == (30, 0.5)
    assert progress.look() == []
    folder.metrics_path.write_text(text + line(40, eval_loss=0.4))
    assert progress.look() == [Evaluation(40, 0.4)]
    assert progress.best == 0.4


def test_what_is_not_finite_is_an_evaluation(folder: RunFolder) -> None:
    progress = TrialProgress(lambda: folder, "eval/loss", "min")
    folder.metrics_path.write_text(line(10, eval_loss=None) + "nonsense\n")
    (found,) = progress.look()
    assert found.step == 10
    assert math.isnan(found.value)
    assert progress.best is None


def test_a_run_that_goes_on_from_an_earlier_step_is_read_again(folder: RunFolder) -> None:
    progress = TrialProgress(lambda: folder, "eval/bleu", "max")
    folder.metrics_path.write_text(line(10, eval_bleu=3.0) + line(20, eval_bleu=2.0))
    assert len(progress.look()) == 2
    folder.metrics_path.write_text(line(10, eval_bleu=3.0))
    assert progress.look() == [Evaluation(10, 3.0)]
    assert progress.best == 3.0


def test_time_that_is_left_is_known_after_two_steps(folder: RunFolder) -> None:
    progress = TrialProgress(lambda: folder, "eval/loss", "min")
    folder.update_record(total_steps=30)
    folder.metrics_path.write_text(line(10))
    progress.look()
    assert (progress.total_steps, progress.seconds_left) == (30, None)
    assert progress._first is not None
    progress._first = (progress._first[0] - 5.0, 10)
    folder.metrics_path.write_text(line(10) + line(20))
    progress.look()
    assert progress.seconds_left == pytest.approx(5.0, abs=0.5)


def test_without_a_folder_nothing_is_known() -> None:
    progress = TrialProgress(lambda: None, "eval/loss", "min")
    assert progress.look() == []
    assert (progress.step, progress.total_steps, progress.best, progress.seconds_left) == (None, None, None, None)
