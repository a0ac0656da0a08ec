"""A run that is killed again and again, and started again with the same command, ends like one that was not."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Protocol

import pytest
from chaos import PHASES, RESUME_PHASES, Attempt, ForkServer, plan_kills, plan_kills_at, preparing, repeat_until_done
from fault_outcome import Outcome, assert_same, assert_tracked_once, read_cache, read_outcome
from fault_processes import (
    MAX_SECONDS_TO_END,
    PlainProcess,
    plan_blows,
    recipe_exp_command,
    strike,
    wait_for_uploaders,
)

REPRESENTATIVE = (
    "prepare: tokens",
    "save: weights torn",
    "save: in place",
    "evaluation: token",
    "journal line torn",
    "resume: samples rewritten",
)
CLOCK_CASES = tuple(f"clock {number}" for number in range(1, 11))
OTHERS = tuple(name for name in (*PHASES, *RESUME_PHASES, *CLOCK_CASES) if name not in REPRESENTATIVE)
TRACKED = ("run.json in place", "journal written", "metrics line torn", "model/: begun", "clock 1")
"""Kills of a run that is sent to MLflow too: at its beginning, in the journal, in a save, whenever."""

CHECKPOINT_EVERY = 3


class Whole(Protocol):
    """What the fixture `whole` is."""

    folder: Path
    attempt: Attempt
    outcome: Outcome


class WholeOfTwo(Protocol):
    """What the fixture `whole_of_two` is."""

    outcome: Outcome
    seconds: float


def kill_until_done(name: str, server: ForkServer, command: list[str], whole: Whole, folder: Path) -> None:
    kills = plan_kills(0, name, whole.attempt)
    attempts = repeat_until_done(server, command, folder, kills)
    # The machine may be quicker than it was for the run that the clock was drawn from.
    num_certain = {**dict.fromkeys(PHASES, 1), **dict.fromkeys(RESUME_PHASES, 2)}.get(name, 0)
    for kill, attempt in zip(kills[:num_certain], attempts, strict=False):
        # A case whose kill never came would show nothing.
        assert attempt.code == -signal.SIGKILL, f"never {kill}"
    assert_same(read_outcome(folder), whole.outcome)
    num_steps = sum(attempt.events.count("call step") for attempt in attempts)
    assert num_steps - whole.attempt.events.count("call step") <= (len(attempts) - 1) * CHECKPOINT_EVERY


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_killed_anywhere_a_run_ends_like_one_that_was_not(
    fork_server: ForkServer, command: list[str], whole: Whole, tmp_path: Path, name: str
) -> None:
    kill_until_done(name, fork_server, command, whole, tmp_path)


@pytest.mark.faults_full
@pytest.mark.parametrize("name", OTHERS)
def test_killed_everywhere_a_run_ends_like_one_that_was_not(
    fork_server: ForkServer, command: list[str], whole: Whole, tmp_path: Path, name: str
) -> None:
    kill_until_done(name, fork_server, command, whole, tmp_path)


VARIANTS = {
    "lora": ("training=lora", "training.batch_size=8", "training.learning_rate=5e-3", "training.adapter.rank=4"),
    "adafactor": ("training/optimizer=adafactor",),
    "early stopping": ("training.early_stopping_patience=1", "training.early_stopping_threshold=0.4"),
}
VARIANT_KILLS = {"step": PHASES["step"], "save": PHASES["save: flush"], "model": PHASES["model/: renamed"]}
BASE_KILLS = {"base opened": r"(os\.mkdir|opened) .*/base", "base renamed": r"os\.rename .*/base"}


@pytest.fixture(scope="session", params=VARIANTS)
def variant(
    request: pytest.FixtureRequest,
    fork_server: ForkServer,
    command: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[list[str], Attempt, Outcome]:
    """Another way to train: its command, and its run that nothing disturbed."""
    # What is given last counts, so the variant's own keys stand behind those of every run.
    line = [*command, *VARIANTS[request.param]]
    folder = tmp_path_factory.mktemp("variant")
    attempt = fork_server.attempt(line, folder)
    assert attempt.code == 0, attempt.last_words
    return line, attempt, read_outcome(folder)


def kill_variant(server: ForkServer, variant: tuple[list[str], Attempt, Outcome], folder: Path, pattern: str) -> None:
    line, whole, outcome = variant
    attempts = repeat_until_done(server, line, folder, plan_kills_at(2, pattern, whole))
    assert attempts[0].code == -signal.SIGKILL
    assert_same(read_outcome(folder), outcome)


@pytest.mark.faults_full
@pytest.mark.parametrize("kill", VARIANT_KILLS)
def test_other_ways_to_train_end_the_same_too(
    fork_server: ForkServer, variant: tuple[list[str], Attempt, Outcome], tmp_path: Path, kill: str
) -> None:
    kill_variant(fork_server, variant, tmp_path, VARIANT_KILLS[kill])


@pytest.mark.faults_full
@pytest.mark.parametrize("variant", ["lora"], indirect=True)
@pytest.mark.parametrize("kill", BASE_KILLS)
def test_an_adapter_whose_base_is_half_written_ends_the_same_too(
    fork_server: ForkServer, variant: tuple[list[str], Attempt, Outcome], tmp_path: Path, kill: str
) -> None:
    kill_variant(fork_server, variant, tmp_path, BASE_KILLS[kill])


@pytest.mark.faults_full
@pytest.mark.parametrize("name", [name for name in PHASES if name.startswith("prepare")])
def test_preparing_data_that_is_killed_and_repeated_builds_the_same_cache(
    fork_server: ForkServer, command: list[str], whole: Whole, tmp_path: Path, name: str
) -> None:
    attempts = repeat_until_done(fork_server, preparing(command), tmp_path, plan_kills(1, name, whole.attempt))
    assert attempts[0].code == -signal.SIGKILL
    assert read_cache(tmp_path) == read_cache(whole.folder)
    assert not list((tmp_path / "outputs").rglob("*/runs/*"))


@pytest.mark.faults_full
@pytest.mark.parametrize("name", TRACKED)
def test_the_tracker_has_every_point_of_a_killed_run_once(
    fork_server: ForkServer, command: list[str], whole: Whole, tmp_path: Path, name: str
) -> None:
    kill_until_done(name, fork_server, [*command, "tracking=mlflow"], whole, tmp_path)
    wait_for_uploaders(tmp_path)
    assert_tracked_once(tmp_path, "FINISHED")


@pytest.mark.faults_full
@pytest.mark.parametrize("seconds", [5.0, 9.0, 11.0])
def test_a_plain_command_killed_by_the_clock_ends_like_the_rest(
    command: list[str], whole: Whole, tmp_path: Path, seconds: float
) -> None:
    plain = PlainProcess(recipe_exp_command(command), tmp_path)
    time.sleep(seconds)
    plain.process.kill()
    plain.wait_until_gone()
    again = strike(recipe_exp_command(command), tmp_path, None)
    assert again.code == 0, again.last_words
    assert_same(read_outcome(tmp_path), whole.outcome)


@pytest.mark.faults_full
@pytest.mark.parametrize("seed", range(10))
def test_two_processes_killed_anywhere_end_like_two_that_were_not(
    command: list[str], whole_of_two: WholeOfTwo, tmp_path: Path, seed: int
) -> None:
    line = recipe_exp_command([*command, "hardware.num_processes=2"])
    for blow in [*plan_blows(seed, whole_of_two.seconds, 30), None]:
        fall = strike(line, tmp_path, blow)
        assert fall.seconds_to_end < MAX_SECONDS_TO_END
        if not fall.was_struck:
            assert fall.code == 0, fall.last_words
            break
    assert_same(read_outcome(tmp_path), whole_of_two.outcome)
