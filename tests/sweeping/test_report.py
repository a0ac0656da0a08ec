from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text

from recipe_exp.config.compose import compose
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.sweeping.grid import Trial
from recipe_exp.sweeping.outcomes import Best, Outcome
from recipe_exp.sweeping.report import print_verdict, write_summary


@pytest.fixture(scope="module")
def config() -> ExperimentConfig:
    return compose()


def outcome_of(
    config: ExperimentConfig, number: int, value: float, metric: str = "eval/loss", **fields: Any
) -> Outcome:
    trial = Trial(number, (f"seed={number}",), {"seed": str(number)}, config)
    values = {"state": "done", "exit_code": 0, "best": Best(metric, value, 7)} | fields
    return Outcome(trial, **values)


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
        outcome_of(config, 2, 0.1, state="failed", best=None, error="[red]boom[/red]"),
        Outcome(outcome_of(config, 3, 0.1).trial, "not started"),
    ]
    print_verdict(outcomes)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines() if line]
    assert lines[0].split() == ["trial", "seed", "state", "steps", "eval/loss", "time", "run", "folder"]
    assert lines[1].split() == ["1", "1", "done", "7", "0.25", "1", "min", "15", "s", folder]
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
