from __future__ import annotations

import json
import math
import signal
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text

from recipe_exp.config.compose import compose
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.sweeping.grid import Trial
from recipe_exp.sweeping.report import (
    Best,
    Outcome,
    best_outcome,
    describe_end,
    format_seconds,
    print_verdict,
    read_outcome,
    write_summary,
)
from recipe_exp.sweeping.trials import Ended
from recipe_exp.tracking import RunFolder


@pytest.fixture(scope="module")
def config() -> ExperimentConfig:
    return compose()


@pytest.fixture
def sweep(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path, run_name="seed", kind="sweep", command=[])


def make_run(sweep: RunFolder, *, pid: int = 0, parent: str | None = None, **fields: Any) -> RunFolder:
    folder = RunFolder.create(
        sweep.output_dir,
        run_name="run",
        command=[],
        parent_run_id=parent or sweep.run_id,
    )
    folder.update_record(pid=pid, **fields)
    return folder


def read(config: ExperimentConfig, sweep: RunFolder, exit_code: int, log: str = "") -> Outcome:
    (sweep.path / "trial-1.log").write_text(log)
    trial = Trial(1, ("seed=1",), {"seed": "1"}, config)
    return read_outcome(trial, Ended(exit_code, 42, 1.0), sweep)


def test_run_folder_is_that_of_the_process(config: ExperimentConfig, sweep: RunFolder) -> None:
    make_run(sweep, pid=41, step=1)
    make_run(sweep, pid=42, parent="another", step=2)
    best = {"metric": "eval/loss", "value": 0.5, "step": 2}
    mine = make_run(sweep, pid=42, step=3, status="finished", best=best)
    outcome = read(config, sweep, 0)
    assert (outcome.run_id, outcome.run_folder, outcome.step) == (mine.run_id, mine.path.name, 3)
    assert outcome.best == Best("eval/loss", 0.5, 2)
    assert outcome.status == "finished"


def test_run_folder_of_a_worker_process_is_found_by_its_configuration(
    config: ExperimentConfig, sweep: RunFolder
) -> None:
    several = config.with_overrides(["hardware.num_processes=2"])
    make_run(sweep, pid=40)
    other, mine = make_run(sweep, pid=41), make_run(sweep, pid=43)
    several.with_overrides(["seed=2"]).to_yaml(other.config_path)
    several.with_overrides(["run_name=a", "hardware.num_threads=3"]).to_yaml(mine.config_path)
    assert read(several, sweep, 0).run_id == mine.run_id
    assert read(config, sweep, 0).run_id is None


@pytest.mark.parametrize(
    ("exit_code", "recorded", "expected"),
    [
        (0, "finished", "finished"),
        (0, "running", "finished"),
        (0, "failed", "failed"),
        (0, "interrupted", "interrupted"),
        (1, "running", "failed"),
        (2, "running", "failed"),
        (130, "interrupted", "interrupted"),
        (143, "running", "interrupted"),
        (-signal.SIGTERM, "running", "interrupted"),
        (-signal.SIGKILL, "running", "failed"),
    ],
)
def test_status(config: ExperimentConfig, sweep: RunFolder, exit_code: int, recorded: str, expected: str) -> None:
    make_run(sweep, pid=42, status=recorded)
    assert read(config, sweep, exit_code).status == expected


@pytest.mark.parametrize(
    ("exit_code", "log", "expected"),
    [
        (2, "loading\nerror: data.path=x: no such file\n", "data.path=x: no such file"),
        (1, "Traceback\n  File\ntorch.OutOfMemoryError: CUDA\nclosing\n", "torch.OutOfMemoryError: CUDA"),
        (1, "first\nlast words\n\n", "last words"),
        (1, "", "exit code 1"),
        (1, "error: HF_TOKEN=hf_abcdefghijklmnopqrst", "HF_TOKEN=***"),
        (-signal.SIGKILL, "step 1\n", "killed by SIGKILL; by the system, if its memory was full"),
        (-signal.SIGSEGV, "step 1\n", "killed by SIGSEGV"),
    ],
)
def test_error_is_the_reason_in_one_line(
    config: ExperimentConfig, sweep: RunFolder, exit_code: int, log: str, expected: str
) -> None:
    outcome = read(config, sweep, exit_code, log)
    assert outcome.error == expected
    assert describe_end(outcome) == f"failed after 1 s: {expected}"


def outcome_of(
    config: ExperimentConfig, number: int, value: float, metric: str = "eval/loss", **fields: Any
) -> Outcome:
    trial = Trial(number, (f"seed={number}",), {"seed": str(number)}, config)
    values = {"status": "finished", "exit_code": 0, "best": Best(metric, value, 7)} | fields
    return Outcome(trial, **values)


def test_best_is_chosen_by_the_metric_s_direction_among_finished_trials(config: ExperimentConfig) -> None:
    values = [0.3, 0.2, 0.1, math.nan]
    losses = [outcome_of(config, number, value) for number, value in enumerate(values[:2] + values[3:], 1)]
    losses.append(outcome_of(config, 4, 0.1, status="interrupted"))
    best = best_outcome(losses)
    assert best is not None
    assert best.trial.number == 2
    upward = config.with_overrides(["evaluation.best_metric=eval/bleu", "evaluation.best_mode=max"])
    best = best_outcome([outcome_of(upward, number, value, "eval/bleu") for number, value in enumerate(values[:3], 1)])
    assert best is not None
    assert best.trial.number == 1
    assert best_outcome([losses[0], outcome_of(upward, 2, 0.1, "eval/bleu")]) is None
    assert best_outcome([]) is None


def test_summary_is_strict_json_and_holds_what_has_ended(config: ExperimentConfig, tmp_path: Path) -> None:
    ended = outcome_of(config, 1, math.inf)
    trials = [ended.trial, outcome_of(config, 2, 0.1).trial]
    path = tmp_path / "sweep.json"
    write_summary(path, "id", trials, {1: ended})
    summary = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert summary["swept"] == {"seed": ["1", "2"]}
    assert [trial["trial"] for trial in summary["trials"]] == [1]
    assert summary["trials"][0]["best"] == {"metric": "eval/loss", "value": None, "step": 7}
    assert summary["best_trial"] is None


def test_table_in_a_file_has_one_line_a_trial(config: ExperimentConfig, capsys: pytest.CaptureFixture[str]) -> None:
    folder = "20260101-000000-abcd-" + "x" * 64
    outcomes = [
        outcome_of(config, 1, 0.25, step=7, seconds=75, run_folder=folder),
        outcome_of(config, 2, 0.1, status="failed", best=None, error="[red]boom[/red]"),
        Outcome(outcome_of(config, 3, 0.1).trial, "not started"),
    ]
    print_verdict(outcomes)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines() if line]
    assert lines[0].split() == ["trial", "seed", "status", "steps", "eval/loss", "time", "run", "folder"]
    assert lines[1].split() == ["1", "1", "finished", "7", "0.25", "1", "min", "15", "s", folder]
    assert lines[3].split() == ["3", "3", "not", "started"]
    assert lines[4:] == ["trial 2 failed: [red]boom[/red]", "best: trial 1 (seed=1), eval/loss 0.25 at step 7"]


def test_table_on_a_narrow_terminal_cuts_nothing(
    config: ExperimentConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "72")
    run_id = "20260101-000000-abcd"
    outcome = outcome_of(config, 1, 0.25, step=7, run_folder=f"{run_id}-{'x' * 64}", run_id=run_id)
    print_verdict([outcome])
    output = Text.from_ansi(capsys.readouterr().out).plain
    assert run_id in output
    assert "\u2026" not in output
    assert max(map(len, output.splitlines())) <= 72


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3599.6, "1 h 00 min"), (7860.0, "2 h 11 min")],
)
def test_format_seconds(seconds: float, expected: str) -> None:
    assert format_seconds(seconds) == expected
