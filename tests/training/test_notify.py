from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from recipe_exp.tracking import Message, Progress
from recipe_exp.training.callbacks.checkpoint import Best
from recipe_exp.training.callbacks.notify import NotifyCallback


class Run:
    """A trainer without training, a clock and a ranking, all set by hand."""

    def __init__(self, every_minutes: float | None = 60.0, step: int = 0) -> None:
        self.seconds = 1_000.0
        self.best: Best | None = None
        self.messages: list[Message] = []
        self.trainer: Any = SimpleNamespace(
            state=SimpleNamespace(step=step), length=SimpleNamespace(total_steps=100), metrics={}
        )
        self.callback = NotifyCallback(
            self.messages.append,
            run_name="toast",
            where="here",
            every_minutes=every_minutes,
            metric="eval/loss",
            best=lambda: self.best,
            sample=lambda: ("prompt", "recipe"),
            now=lambda: self.seconds,
        )

    def go_to(self, step: int, after_minutes: float) -> None:
        self.trainer.state.step = step
        self.seconds += 60 * after_minutes
        self.trainer.metrics["train/loss"] = 2.0
        self.callback.on_log(self.trainer, {"train/loss": 2.0})

    def save(self, best: Best | None) -> None:
        self.best = best
        self.callback.on_checkpoint(self.trainer)

    @property
    def titles(self) -> list[str]:
        return [message.title for message in self.messages]


@pytest.fixture
def run() -> Run:
    run = Run()
    run.callback.on_train_begin(run.trainer)
    return run


def test_progress_is_said_when_the_time_has_come(run: Run) -> None:
    for step, minutes in ((10, 30), (20, 29), (30, 2), (40, 58), (50, 3)):
        run.go_to(step, minutes)
    assert run.titles[1:] == [
        "toast at step 30 of 100, about 2 h 22 min left",
        "toast at step 50 of 100, about 2 h 2 min left",
    ]


def test_time_left_counts_from_where_this_execution_began() -> None:
    run = Run(step=60)
    run.callback.on_train_begin(run.trainer)
    run.go_to(80, 100)
    assert run.titles == ["toast goes on after step 60 of 100", "toast at step 80 of 100, about 1 h 40 min left"]


def test_nothing_is_said_of_an_evaluation_alone_nor_of_the_last_step(run: Run) -> None:
    run.seconds += 10_000
    run.callback.on_log(run.trainer, {"eval/loss": 1.0})
    run.go_to(100, 100)
    assert run.titles == ["toast started"]


def test_progress_can_be_left_out() -> None:
    run = Run(every_minutes=None)
    run.callback.on_train_begin(run.trainer)
    run.go_to(50, 1e6)
    assert run.titles == ["toast started"]


def test_a_best_is_said_once_and_at_most_once_a_minute(run: Run) -> None:
    run.go_to(10, 1)
    run.save(None)
    run.save(Best(10, 3.0))
    run.go_to(20, 0.5)
    run.save(Best(10, 3.0))
    run.save(Best(20, 2.0))
    run.go_to(30, 2)
    run.save(Best(20, 2.0))
    run.go_to(40, 2)
    run.save(Best(20, 2.0))
    assert run.titles[1:] == ["toast: new best at step 10 of 100", "toast: new best at step 20 of 100"]
    assert run.messages[-1].body.startswith("eval/loss 2, was 3")


def test_a_best_of_before_is_no_news() -> None:
    run = Run(step=50)
    run.best = Best(40, 1.0)
    run.callback.on_train_begin(run.trainer)
    run.save(run.best)
    assert run.titles == ["toast goes on after step 50 of 100"]


def test_it_is_known_where_the_run_stopped(run: Run) -> None:
    run.trainer.state.step = 17
    run.callback.on_train_end(run.trainer)
    assert run.callback.progress == Progress(17, 100)
