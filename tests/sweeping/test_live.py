from __future__ import annotations

import io

import pytest
from rich.console import Console

from recipe_exp.config.compose import compose
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.sweeping.grid import Trial
from recipe_exp.sweeping.ledger import TrialState
from recipe_exp.sweeping.live import Display, Row, describe, describe_end, format_seconds, live_table
from recipe_exp.sweeping.outcomes import Best, Outcome
from recipe_exp.sweeping.progress import TrialProgress


@pytest.fixture(scope="module")
def config() -> ExperimentConfig:
    return compose()


def row(config: ExperimentConfig, number: int, state: TrialState, *, is_here: bool = True) -> Row:
    trial = Trial(number, (), {"training.learning_rate": f"1e-{number}"}, config)
    is_ended = state not in ("not started", "running")
    outcome = Outcome(trial, state, 0 if is_ended else None, 60.0 if is_ended else 0.0)
    if state != "running" or not is_here:
        return Row(outcome)
    progress = TrialProgress(lambda: None, "eval/loss", "min")
    progress.step, progress.total_steps, progress.best = 250, 1000, 0.123456
    progress._first = (progress.seconds_left or 0.0, 0)
    return Row(outcome, progress)


def shown(rows: list[Row], room: int = 20) -> list[list[str]]:
    console = Console(file=io.StringIO(), width=120)
    with console.capture() as capture:
        console.print(live_table(rows, "eval/loss", room))
    return [line.split() for line in capture.get().splitlines()]


def test_table_shows_step_best_and_what_is_left(config: ExperimentConfig) -> None:
    lines = shown([row(config, 1, "done"), row(config, 2, "running"), row(config, 3, "not started")])
    assert lines[0] == ["trial", "learning_rate", "state", "step", "eval/loss", "time"]
    assert lines[1] == ["1", "1e-1", "done", "1", "min", "00", "s"]
    assert lines[2][:5] == ["2", "1e-2", "running", "250/1000", "0.12346"]
    assert lines[2][-1] == "left"
    assert lines[3] == ["3", "1e-3", "not", "started"]


def test_what_runs_and_what_failed_is_shown_where_room_is_short(config: ExperimentConfig) -> None:
    states: list[TrialState] = ["failed", *["done"] * 20, "running", *["not started"] * 30]  # type: ignore[list-item]
    lines = shown([row(config, number, state) for number, state in enumerate(states, 1)], room=6)
    assert [line[0] for line in lines[1:]] == ["1", "18", "19", "20", "21", "22"]


def test_summary_counts_states_and_divides_what_is_left(config: ExperimentConfig) -> None:
    rows = [row(config, 1, "done"), row(config, 2, "failed"), row(config, 3, "not started"), row(config, 4, "done")]
    assert describe(rows, 1) == "2 done, 1 failed, 1 to come; about 1 min 00 s left"
    assert describe(rows, 2) == "2 done, 1 failed, 1 to come; about 30 s left"
    assert describe(rows[2:3], 1) == "1 to come"


def test_elsewhere_than_on_a_terminal_there_are_lines(config: ExperimentConfig) -> None:
    file = io.StringIO()
    with Display("eval/loss", 2, Console(file=file, width=200)) as display:
        assert not display.is_due
        display.show([row(config, 1, "running"), row(config, 2, "done"), row(config, 3, "running", is_here=False)])
    (line,) = file.getvalue().splitlines()
    assert line.startswith("trial 1/3 (learning_rate=1e-1) at step 250/1000, best eval/loss 0.12346")


def test_on_a_terminal_there_is_a_table_that_goes(config: ExperimentConfig) -> None:
    file = io.StringIO()
    console = Console(file=file, width=100, height=20, force_terminal=True, legacy_windows=False)
    with Display("eval/loss", 2, console) as display:
        display.show([row(config, 1, "running"), row(config, 2, "done")])
        display.say(row(config, 2, "done").outcome, 2, "done after 1 min")
    text = file.getvalue()
    assert "250/1000" in text
    assert "1 running, 1 done" in text
    assert "trial 2/2 (learning_rate=1e-2) done after 1 min" in text


def test_end_is_described_in_one_line(config: ExperimentConfig) -> None:
    trial = Trial(1, (), {}, config)
    done = Outcome(trial, "done", 0, 75.0, best=Best("eval/loss", 0.25, 7))
    assert describe_end(done) == "done after 1 min 15 s, eval/loss 0.25 at step 7"
    assert describe_end(Outcome(trial, "failed", 1, 1.0, error="boom")) == "failed after 1 s: boom"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3599.6, "1 h 00 min"), (7860.0, "2 h 11 min")],
)
def test_format_seconds(seconds: float, expected: str) -> None:
    assert format_seconds(seconds) == expected
