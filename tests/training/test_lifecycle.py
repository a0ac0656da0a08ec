from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from recipe_exp.signals import ENDING_SIGNALS, Interrupted
from recipe_exp.training.callbacks import Callback
from recipe_exp.training.lifecycle import Lifecycle, StopReason
from recipe_exp.training.state import StepResult
from recipe_exp.training.trainer import Trainer

TrainerBuilder = Callable[..., Trainer]

LOOP = """
import sys, time
from pathlib import Path
import torch
from recipe_exp.training.callbacks import Callback
from recipe_exp.training.lifecycle import Lifecycle
from recipe_exp.training.state import StepResult
from recipe_exp.training.trainer import RunLength, Trainer

def step(window):
    print(f"in step {window + 1}", flush=True)
    deadline = time.monotonic() + float(sys.argv[1])
    while time.monotonic() < deadline:
        time.sleep(0.01)
    one = torch.tensor(1.0)
    return StepResult(window + 1, one, one, one > 0, 0.1, 1, 1, 1, 2)

class Report(Callback):
    def on_train_end(self, trainer):
        print(f"ended after step {trainer.state.step}", flush=True)

trainer = Trainer(step, lambda start: (step for step in range(start, 100)), RunLength(100, 10), [Report()], Lifecycle())
reason = trainer.fit()
print(reason.name, reason.status, flush=True)
sys.exit(reason.exit_code)
"""


def start_loop(tmp_path: Path, seconds_per_step: float) -> subprocess.Popen[str]:
    script = tmp_path / "loop.py"
    script.write_text(LOOP, encoding="utf-8")
    command = [sys.executable, str(script), str(seconds_per_step)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.stdout is not None
    assert process.stdout.readline() == "in step 1\n"
    return process


@pytest.mark.parametrize(
    ("number", "name", "code"),
    [(signal.SIGINT, "SIGINT", 130), (signal.SIGTERM, "SIGTERM", 143), (signal.SIGUSR1, "SIGTERM", 143)],
)
def test_a_signal_ends_the_run_after_the_step(tmp_path: Path, number: int, name: str, code: int) -> None:
    with start_loop(tmp_path, 0.3) as process:
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    assert output == f"ended after step 1\n{name} interrupted\n"
    assert process.returncode == code


def test_a_second_signal_ends_the_process_at_once(tmp_path: Path) -> None:
    with start_loop(tmp_path, 60.0) as process:
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=30)
    assert output == ""
    assert process.returncode == 143
    assert time.monotonic() - started < 10


def test_exit_codes_and_statuses() -> None:
    found = {reason: (reason.exit_code, reason.status) for reason in StopReason}
    assert found == {
        StopReason.FINISHED: (0, "finished"),
        StopReason.EARLY_STOPPING: (0, "finished"),
        StopReason.PRUNED: (0, "finished"),
        StopReason.TIME_LIMIT: (75, "interrupted"),
        StopReason.FAILED: (1, "failed"),
        StopReason.SIGINT: (130, "interrupted"),
        StopReason.SIGTERM: (143, "interrupted"),
    }


def test_handlers_are_put_back() -> None:
    before = {number: signal.getsignal(number) for number in ENDING_SIGNALS}
    with Lifecycle() as lifecycle:
        signal.raise_signal(signal.SIGUSR1)
        assert lifecycle.should_stop()
    assert {number: signal.getsignal(number) for number in before} == before


def test_a_run_in_another_thread_sets_no_handler(build_trainer: TrainerBuilder) -> None:
    before = signal.getsignal(signal.SIGTERM)
    reasons: list[StopReason] = []
    handlers: list[object] = []

    class Look(Callback):
        def on_train_begin(self, trainer: Trainer) -> None:
            handlers.append(signal.getsignal(signal.SIGTERM))

    trainer = build_trainer(Look())
    thread = threading.Thread(target=lambda: reasons.append(trainer.fit()))
    thread.start()
    thread.join()
    assert reasons == [StopReason.FINISHED]
    assert handlers == [before]


def test_all_processes_stop_when_one_is_asked() -> None:
    asked = Lifecycle()
    asked.stop(StopReason.SIGTERM)
    told: list[int] = []

    def agree(value: int) -> int:
        told.append(value)
        return max(value, list(StopReason).index(StopReason.SIGTERM))

    other = Lifecycle(agree)
    assert other.should_stop()
    assert told == [0]
    assert other.reason is StopReason.SIGTERM
    assert asked.should_stop()
    assert asked.reason is StopReason.SIGTERM


def test_a_signal_while_the_processes_agree_is_kept_for_the_next_step() -> None:
    arrives = [True]

    def agree(value: int) -> int:
        if arrives.pop():
            # It came too late for the others, so none may stop now.
            signal.raise_signal(signal.SIGTERM)
        return value

    with Lifecycle(agree) as lifecycle:
        assert not lifecycle.should_stop()
        assert lifecycle.reason.name == "FINISHED"
        arrives.append(False)
        assert lifecycle.should_stop()
        assert lifecycle.reason is StopReason.SIGTERM


def test_the_first_signal_after_an_agreed_stop_is_not_a_second_one() -> None:
    """The launcher sends a signal to one process after the other; agreeing may be faster."""
    with Lifecycle(lambda _value: list(StopReason).index(StopReason.SIGINT)) as lifecycle:
        assert lifecycle.should_stop()
        signal.raise_signal(signal.SIGINT)
        assert lifecycle.should_stop()
    assert lifecycle.reason is StopReason.SIGINT


def test_a_second_signal_counts_after_an_early_end_too(fork: Callable[[Callable[[], None]], int]) -> None:
    def child() -> None:
        with Lifecycle() as lifecycle:
            lifecycle.stop(StopReason.EARLY_STOPPING)
            signal.raise_signal(signal.SIGINT)
            assert lifecycle.should_stop()
            assert lifecycle.reason is StopReason.EARLY_STOPPING
            signal.raise_signal(signal.SIGINT)

    assert fork(child) == 130


def test_an_error_ends_a_run_as_failed_and_a_keyboard_interrupt_as_interrupted(build_trainer: TrainerBuilder) -> None:
    for error, reason in ((ValueError("x"), StopReason.FAILED), (KeyboardInterrupt(), StopReason.SIGINT)):
        trainer = build_trainer(outcomes={2: error})
        with pytest.raises(type(error)):
            trainer.fit()
        assert trainer.lifecycle.reason is reason
        assert trainer.lifecycle.error is error


def test_a_signal_between_two_steps_keeps_the_step_that_was_done(build_trainer: TrainerBuilder) -> None:
    class Signal(Callback):
        def on_step_end(self, trainer: Trainer, result: StepResult) -> None:
            if result.step == 3:
                signal.raise_signal(signal.SIGTERM)

    trainer = build_trainer(Signal())
    assert trainer.fit() is StopReason.SIGTERM
    assert trainer.state.step == 3


def test_work_that_can_be_repeated_is_interrupted_at_once() -> None:
    with Lifecycle() as lifecycle:
        with pytest.raises(Interrupted) as caught, lifecycle.interruptible():
            signal.raise_signal(signal.SIGTERM)
        assert caught.value.exit_code == 143
        with pytest.raises(Interrupted), lifecycle.interruptible():
            raise AssertionError("not begun after a signal")
        assert lifecycle.should_stop()


def test_what_is_not_asked_by_a_signal_interrupts_no_work() -> None:
    with Lifecycle() as lifecycle:
        lifecycle.stop(StopReason.TIME_LIMIT)
        with lifecycle.interruptible():
            lifecycle.raise_if_asked()
        assert lifecycle.should_stop()


def test_several_processes_are_interrupted_where_all_of_them_pass() -> None:
    sigterm = list(StopReason).index(StopReason.SIGTERM)
    other = Lifecycle(lambda value: max(value, sigterm))
    with other, other.interruptible():
        with pytest.raises(Interrupted) as caught:
            other.raise_if_asked()
        assert caught.value.exit_code == 143
    own = Lifecycle(lambda _value: 0)
    with own, own.interruptible():
        signal.raise_signal(signal.SIGTERM)
        own.raise_if_asked()  # the others have not heard of it yet
