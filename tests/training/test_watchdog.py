from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from recipe_exp.training.callbacks import Callback
from recipe_exp.training.callbacks import watchdog as watchdog_module
from recipe_exp.training.callbacks.watchdog import WatchdogCallback
from recipe_exp.training.lifecycle import StopReason
from recipe_exp.training.state import StepResult
from recipe_exp.training.trainer import Trainer

TrainerBuilder = Callable[..., Trainer]
Fork = Callable[[Callable[[], None]], int]


class HangInStep(Callback):
    """Waits for something that never comes."""

    def __init__(self, step: int, seconds: float) -> None:
        self.step = step
        self.seconds = seconds

    def on_step_end(self, trainer: Trainer, result: StepResult) -> None:
        if result.step == self.step:
            self.wait_for_ever()

    def wait_for_ever(self) -> None:
        time.sleep(self.seconds)


@pytest.mark.parametrize("report_fails", [False, True])
def test_a_run_that_hangs_says_where_and_exits_with_75(
    build_trainer: TrainerBuilder, fork: Fork, tmp_path: Path, report_fails: bool
) -> None:
    told = tmp_path / "told.txt"

    def report(line: str) -> None:
        told.write_text(line)
        if report_fails:
            raise OSError("the disk hangs too")

    def child() -> None:
        watchdog = WatchdogCallback(0.4, tmp_path / "stall.txt", report)
        build_trainer(watchdog, HangInStep(3, 60.0)).fit()

    started = time.monotonic()
    assert fork(child) == 75
    assert 0.4 <= time.monotonic() - started < 20
    assert "wait_for_ever" in (tmp_path / "stall.txt").read_text()
    assert told.read_text().startswith("nothing was done for 0.00667 minutes after step 3 ")


def test_a_disk_that_hangs_does_not_keep_it(build_trainer: TrainerBuilder, fork: Fork, tmp_path: Path) -> None:
    # Opening a pipe that nobody reads waits for ever, as a dead network disk does.
    os.mkfifo(tmp_path / "stall.txt")

    def child() -> None:
        watchdog_module._REPORT_SECONDS = 1.0
        watchdog = WatchdogCallback(0.4, tmp_path / "stall.txt", lambda _line: None)
        build_trainer(watchdog, HangInStep(3, 60.0)).fit()

    started = time.monotonic()
    assert fork(child) == 75
    assert time.monotonic() - started < 20


def test_a_slow_run_that_goes_on_is_left_alone(build_trainer: TrainerBuilder, fork: Fork, tmp_path: Path) -> None:
    def child() -> None:
        watchdog = WatchdogCallback(0.6, tmp_path / "stall.txt", lambda _line: None)

        class Slow(Callback):
            def on_step_begin(self, trainer: Trainer) -> None:
                time.sleep(0.2)

        assert build_trainer(watchdog, Slow()).fit() is StopReason.FINISHED
        time.sleep(0.8)  # after the end nobody watches

    assert fork(child) == 0
    assert not (tmp_path / "stall.txt").exists()


def test_batches_of_an_evaluation_are_signs_of_life(build_trainer: TrainerBuilder, fork: Fork, tmp_path: Path) -> None:
    def child() -> None:
        watchdog = WatchdogCallback(0.6, tmp_path / "stall.txt", lambda _line: None)

        class Evaluate(Callback):
            def on_step_end(self, trainer: Trainer, result: StepResult) -> None:
                for _ in range(5):
                    time.sleep(0.2)
                    watchdog.beat()

        assert build_trainer(watchdog, Evaluate(), total_steps=1).fit() is StopReason.FINISHED

    assert fork(child) == 0
