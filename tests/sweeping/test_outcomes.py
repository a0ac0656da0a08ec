from __future__ import annotations

import math
import signal
from typing import Any

import pytest

from recipe_exp.config.compose import compose
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.sweeping.grid import Trial
from recipe_exp.sweeping.ledger import Ended, Planned, Started, TrialRecord, fold
from recipe_exp.sweeping.outcomes import (
    Best,
    Outcome,
    best_outcome,
    find_trial_run,
    outcome_of,
    read_end,
    unseen_end,
)
from recipe_exp.sweeping.trials import Exit
from recipe_exp.tracking import RunFolder


@pytest.fixture(scope="module")
def config() -> ExperimentConfig:
    return compose()


@pytest.fixture
def sweep(tmp_path: Any) -> RunFolder:
    return RunFolder.create(tmp_path, run_name="seed", kind="sweep", command=[])


@pytest.fixture(scope="module")
def trial(config: ExperimentConfig) -> Trial:
    return Trial(1, ("seed=1",), {"seed": "1"}, config)


def make_run(sweep: RunFolder, trial: str | None, *, parent: str | None = None, **fields: Any) -> RunFolder:
    folder = RunFolder.create(
        sweep.output_dir, run_name="run", command=[], parent_run_id=parent or sweep.run_id, trial=trial
    )
    folder.update_record(**fields)
    return folder


def end_of(trial: Trial, sweep: RunFolder, exit_code: int, log: str = "") -> Ended:
    (sweep.path / "trial-1.log").write_text(log)
    return read_end(trial, Exit(exit_code, 1.0), sweep)


def test_run_folder_is_that_of_the_trial_in_this_sweep(trial: Trial, sweep: RunFolder) -> None:
    best = {"metric": "eval/loss", "value": 0.5, "step": 2}
    mine = make_run(sweep, trial.key, step=3, status="finished", best=best, machinery={"micro_batch_tokens": 64})
    make_run(sweep, "another", step=1)
    make_run(sweep, trial.key, parent="another", step=2)
    end = end_of(trial, sweep, 0)
    assert (end.run_id, end.run_folder, end.step) == (mine.run_id, mine.path.name, 3)
    assert (end.metric, end.best, end.best_step, end.micro_batch_tokens) == ("eval/loss", 0.5, 2, 64)
    assert (end.state, end.error) == ("done", None)
    assert find_trial_run(sweep, "nobody") is None


@pytest.mark.parametrize(
    ("exit_code", "recorded", "expected"),
    [
        (0, {"status": "finished"}, "done"),
        (0, {"status": "running"}, "done"),
        (0, {"status": "failed"}, "failed"),
        (0, {"status": "interrupted"}, "interrupted"),
        (0, {"status": "finished", "stop_reason": "pruned"}, "pruned"),
        (1, {"status": "running"}, "failed"),
        (2, {"status": "running"}, "failed"),
        (75, {"status": "interrupted"}, "interrupted"),
        (130, {"status": "interrupted"}, "interrupted"),
        (143, {"status": "running"}, "interrupted"),
        (-signal.SIGTERM, {"status": "running"}, "interrupted"),
        (137, {"status": "running"}, "killed"),
        (-signal.SIGKILL, {"status": "running"}, "killed"),
    ],
)
def test_state(trial: Trial, sweep: RunFolder, exit_code: int, recorded: dict[str, str], expected: str) -> None:
    make_run(sweep, trial.key, **recorded)
    assert end_of(trial, sweep, exit_code).state == expected


@pytest.mark.parametrize(
    ("exit_code", "log", "state", "expected"),
    [
        (2, "loading\nerror: data.path=x: no such file\n", "failed", "data.path=x: no such file"),
        (
            1,
            "Traceback\n  File\ntorch.OutOfMemoryError: CUDA\nclosing\n",
            "out of memory",
            "torch.OutOfMemoryError: CUDA",
        ),
        (1, "error: step 1: out of memory in micro-batches of 16\n", "out of memory", None),
        (1, "MemoryError\n", "out of memory", "MemoryError"),
        (1, "first\nlast words\n\n", "failed", "last words"),
        (1, "", "failed", "exit code 1"),
        (1, "error: HF_TOKEN=hf_abcdefghijklmnopqrst", "failed", "HF_TOKEN=***"),
        (-signal.SIGKILL, "step 1\n", "killed", "killed by SIGKILL; by the system, if its memory was full"),
        (-signal.SIGSEGV, "step 1\n", "failed", "killed by SIGSEGV"),
    ],
)
def test_error_is_the_reason_in_one_line(
    trial: Trial, sweep: RunFolder, exit_code: int, log: str, state: str, expected: str | None
) -> None:
    end = end_of(trial, sweep, exit_code, log)
    assert end.state == state
    assert end.error == (expected or log.removeprefix("error: ").strip())


@pytest.mark.parametrize(
    ("recorded", "state"),
    [
        ({"status": "finished"}, "done"),
        ({"status": "finished", "stop_reason": "pruned"}, "pruned"),
        ({"status": "interrupted"}, "killed"),
        ({"status": "running"}, "killed"),
        (None, "killed"),
    ],
)
def test_end_that_nobody_saw_is_read_from_the_run(
    sweep: RunFolder, recorded: dict[str, str] | None, state: str
) -> None:
    folder = make_run(sweep, "key", **recorded) if recorded is not None else None
    end = unseen_end(TrialRecord("key", 1), sweep)
    assert (end.state, end.run_id) == (state, folder.run_id if folder else None)
    assert (end.error is None) == (state != "killed")


def test_outcome_is_what_the_ledger_says(trial: Trial) -> None:
    planned = Planned(0.0, trial.key, 1, {}, [])
    failed = Ended(2.0, trial.key, "failed", 1, 3.0, run_id="run", error="boom")
    first = outcome_of(trial, fold([planned, Started(1.0, trial.key, "me"), failed])[trial.key])
    assert (first.state, first.exit_code, first.seconds, first.run_id, first.error) == ("failed", 1, 3.0, "run", "boom")
    again = outcome_of(trial, fold([planned, failed, Started(3.0, trial.key, "me")])[trial.key])
    assert (again.state, again.error) == ("running", None)
    assert outcome_of(trial, TrialRecord(trial.key, 1)) == Outcome(trial, "not started")


def ranked(config: ExperimentConfig, number: int, value: float, metric: str = "eval/loss", **fields: Any) -> Outcome:
    trial = Trial(number, (f"seed={number}",), {"seed": str(number)}, config)
    values = {"state": "done", "exit_code": 0, "best": Best(metric, value, 7)} | fields
    return Outcome(trial, **values)


def test_best_is_chosen_by_the_metric_s_direction_among_finished_trials(config: ExperimentConfig) -> None:
    values = [0.3, 0.2, 0.1, math.nan]
    losses = [ranked(config, number, value) for number, value in enumerate(values[:2] + values[3:], 1)]
    losses.append(ranked(config, 4, 0.1, state="interrupted"))
    best = best_outcome(losses)
    assert best is not None
    assert best.trial.number == 2
    upward = config.with_overrides(["evaluation.best_metric=eval/bleu", "evaluation.best_mode=max"])
    best = best_outcome([ranked(upward, number, value, "eval/bleu") for number, value in enumerate(values[:3], 1)])
    assert best is not None
    assert best.trial.number == 1
    assert best_outcome([losses[0], ranked(upward, 2, 0.1, "eval/bleu")]) is None
    assert best_outcome([]) is None
