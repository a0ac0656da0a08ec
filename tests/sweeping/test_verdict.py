from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from recipe_exp.config.compose import compose
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.reports.verdict_table import print_verdict
from recipe_exp.sweeping.grid import Trial
from recipe_exp.sweeping.outcomes import Best, Outcome
from recipe_exp.sweeping.verdict import REPORT_NAME, judge_trials, keep_verdict
from recipe_exp.tracking import Journal, RunFolder

RATE = "training.learning_rate"


@pytest.fixture(scope="module")
def config() -> ExperimentConfig:
    return compose()


def outcome_of(config: ExperimentConfig, number: int, rate: str, value: float | None, **fields: Any) -> Outcome:
    trial = Trial(number, (f"{RATE}={rate}",), {RATE: rate}, config.with_overrides([f"{RATE}={rate}"]))
    best = None if value is None else Best("eval/loss", value, 7)
    values: dict[str, Any] = {"state": "done", "exit_code": 0, "seconds": 75.0, "best": best} | fields
    return Outcome(trial, **values)


@pytest.fixture
def outcomes(config: ExperimentConfig) -> list[Outcome]:
    run_id = "20260101-000000-abcd"
    return [
        outcome_of(config, 1, "1e-3", 0.5, step=7, run_id=run_id, run_folder=f"{run_id}-{'x' * 64}"),
        outcome_of(config, 2, "1e-2", 0.25, step=7),
        outcome_of(config, 3, "1e-1", 0.01, state="pruned", step=3),
        outcome_of(config, 4, "0.5", None, state="failed", error="[red]boom[/red]"),
        outcome_of(config, 5, "0.7", None, state="not started", exit_code=None),
    ]


def printed(outcomes: list[Outcome], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    print_verdict(Console(highlight=False), judge_trials(outcomes, tmp_path))
    return [line.rstrip() for line in Text.from_ansi(capsys.readouterr().out).plain.splitlines() if line.strip()]


def test_in_a_file_a_trial_has_one_line(
    outcomes: list[Outcome], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed(outcomes, tmp_path, capsys)
    assert lines[0].split() == ["learning_rate", "state", "steps", "eval/loss", "time", "run"]
    assert lines[1].split() == ["1", "1e-2", "done", "7", "0.2500", "1", "min", "15", "s"]
    assert lines[2].split() == ["2", "1e-3", "done", "7", "0.5000", "1", "min", "15", "s", "20260101-000000-abcd"]
    assert lines[3].split() == ["1e-1", "pruned", "3", "0.0100", "1", "min", "15", "s"]
    assert lines[5].split() == ["0.7", "not", "started"]
    assert lines[6] == "best: learning_rate=0.01, eval/loss 0.2500 at step 7"
    assert f"the best {RATE} is at the edge of 0.001 to 0.01: extend to {RATE}=0.1,1" in lines
    assert "not ranked: learning_rate=1e-1: pruned at step 3" in lines
    assert "not ranked: learning_rate=0.5: failed: [red]boom[/red]" in lines


def test_on_a_narrow_terminal_nothing_is_cut(
    outcomes: list[Outcome], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"FORCE_COLOR": "1", "NO_COLOR": "1", "TERM": "xterm", "COLUMNS": "72"}.items():
        monkeypatch.setenv(name, value)
    lines = printed(outcomes[:1], tmp_path, capsys)
    end = next(number for number, line in enumerate(lines) if line.startswith("the only run"))
    assert "20260101-000000-abcd" in lines[end - 1]
    assert "\u2026" not in "".join(lines)
    assert max(map(len, lines[:end])) <= 72


def test_the_folder_and_the_record_of_the_sweep_keep_it(outcomes: list[Outcome], tmp_path: Path) -> None:
    sweep = RunFolder.create(tmp_path, run_name="learning_rate", kind="sweep", command=[])
    journal = Journal(sweep)
    keep_verdict(judge_trials(outcomes, tmp_path), sweep, journal, "What I wanted to know.")
    journal.close()
    assert "Sweep of learning_rate" in (sweep.path / REPORT_NAME).read_text()
    assert "<svg" in (sweep.path / "figures" / "eval_loss_by_learning_rate.svg").read_text()
    events = [json.loads(line) for line in sweep.journal_path.read_text().splitlines()]
    assert [event["path"] for event in events if event["event"] == "artifact"] == [REPORT_NAME, "figures"]
    tags = {name: value for event in events for name, value in event.get("tags", {}).items()}
    assert tags["recipe_exp.verdict"].startswith("best: learning_rate=0.01")
    assert tags["mlflow.note.content"].startswith("What I wanted to know.\n\n**best: learning_rate=0.01")
    assert "- the best training.learning_rate is at the edge" in tags["mlflow.note.content"]
    assert [event["metrics"] for event in events if event["event"] == "metrics"] == [{"best/eval/loss": 0.25}]


def test_a_sweep_without_a_result_has_a_report_too(config: ExperimentConfig, tmp_path: Path) -> None:
    sweep = RunFolder.create(tmp_path, run_name="seed", kind="sweep", command=[])
    journal = Journal(sweep)
    keep_verdict(
        judge_trials([outcome_of(config, 1, "0.5", None, state="killed", error="killed")], tmp_path), sweep, journal
    )
    journal.close()
    assert "no run can be ranked" in (sweep.path / REPORT_NAME).read_text().lower()
