from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import pytest

from recipe_exp.errors import TrainingError
from recipe_exp.training.callbacks import EVENTS, Callback
from recipe_exp.training.guard import RollbackError
from recipe_exp.training.lifecycle import StopReason
from recipe_exp.training.state import StepResult
from recipe_exp.training.trainer import Stopwatch, Trainer

TrainerBuilder = Callable[..., Trainer]


class Diary(Callback):
    """Writes down every event with the step it came at."""

    def __init__(self, name: str = "", priority: int = 0, entries: list[str] | None = None) -> None:
        self.name = name
        self.priority = priority
        self.entries: list[str] = [] if entries is None else entries


def _writer(event: str) -> Callable[..., None]:
    def write(self: Diary, trainer: Trainer, *_: object) -> None:
        self.entries.append(f"{self.name}{event.removeprefix('on_')} {trainer.state.step}")

    return write


for _event in EVENTS:
    setattr(Diary, _event, _writer(_event))


def test_events_come_in_the_order_of_the_loop(build_trainer: TrainerBuilder) -> None:
    diary = Diary()
    trainer = build_trainer(diary, total_steps=3, steps_per_epoch=2)
    assert trainer.fit() is StopReason.FINISHED
    assert diary.entries == [
        "train_begin 0",
        "epoch_begin 0",
        "step_begin 0",
        "step_end 1",
        "step_begin 1",
        "step_end 2",
        "epoch_end 2",
        "epoch_begin 2",
        "step_begin 2",
        "step_end 3",
        "train_end 3",
    ]


def test_every_callback_hears_an_event_in_order_of_priority(build_trainer: TrainerBuilder) -> None:
    entries: list[str] = []
    diaries = [Diary("low ", -5, entries), Diary("high ", 80, entries), Diary("first ", 0, entries)]
    trainer = build_trainer(*diaries, Diary("second ", 0, entries), total_steps=1)
    trainer.fit()
    ends = [entry for entry in entries if "step_end" in entry]
    assert ends == ["high step_end 1", "first step_end 1", "second step_end 1", "low step_end 1"]


def test_counters_add_up_what_steps_report(build_trainer: TrainerBuilder) -> None:
    trainer = build_trainer(total_steps=3, steps_per_epoch=2, outcomes={2: {"num_target_tokens": 7, "num_examples": 1}})
    trainer.fit()
    assert trainer.state.state_dict() == {
        "step": 3,
        "num_examples": 5,
        "num_target_tokens": 27,
        "num_skipped_steps": 0,
    }
    assert trainer.epoch == 1.5


class StopAfter(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, trainer: Trainer, result: StepResult) -> None:
        if result.step == self.step:
            trainer.stop(StopReason.SIGTERM)


class Numbers(Iterator[int]):
    """Windows that are prepared ahead until they are closed."""

    def __init__(self, start: int, opened: list[Numbers]) -> None:
        assert all(windows.is_closed for windows in opened)
        opened.append(self)
        self.next_step = start
        self.is_closed = False

    def __next__(self) -> int:
        assert not self.is_closed
        self.next_step += 1
        return self.next_step - 1

    def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize("ending", ["finished", "stopped", "failed", "rolled back"])
def test_windows_are_closed_however_the_run_ends(build_trainer: TrainerBuilder, ending: str) -> None:
    outcomes: dict[int, Mapping[str, Any] | BaseException] = {}
    if ending == "failed":
        outcomes[3] = RuntimeError("on purpose")
    if ending == "rolled back":
        outcomes[3] = RollbackError("on purpose")
    callbacks = [StopAfter(3)] if ending == "stopped" else []
    trainer = build_trainer(*callbacks, outcomes=outcomes, roll_back=lambda *_: outcomes.clear())
    opened: list[Numbers] = []
    trainer.windows = lambda start: Numbers(start, opened)
    with pytest.raises(RuntimeError) if ending == "failed" else nullcontext():
        trainer.fit()
    assert [windows.is_closed for windows in opened] == [True] * (2 if ending == "rolled back" else 1)


def test_a_restored_run_begins_where_it_was_saved(build_trainer: TrainerBuilder) -> None:
    saved: dict[str, Any] = {}

    class Save(Callback):
        def on_step_end(self, trainer: Trainer, result: StepResult) -> None:
            if result.step == 3:
                saved.update(trainer.state_dict())

    whole = build_trainer(Save())
    whole.fit()
    diary = Diary()
    trainer = build_trainer(diary, restore=lambda trainer: trainer.load_state_dict(saved))
    trainer.fit()
    assert diary.entries[:3] == ["train_begin 3", "step_begin 3", "step_end 4"], "no epoch begins in its middle"
    assert trainer.state == whole.state


def test_a_run_restored_at_its_end_takes_no_step(build_trainer: TrainerBuilder) -> None:
    diary = Diary()
    state = {"trainer": {"step": 6, "num_examples": 12, "num_target_tokens": 60}, "callbacks": {}}
    trainer = build_trainer(diary, restore=lambda trainer: trainer.load_state_dict(state))
    assert trainer.fit() is StopReason.FINISHED
    assert diary.entries == ["train_begin 6", "train_end 6"]


@pytest.mark.parametrize("failing", ["step", "restore", "on_train_begin", "on_step_begin", "on_step_end"])
def test_callbacks_are_closed_whatever_raises(build_trainer: TrainerBuilder, failing: str) -> None:
    error = TrainingError("it broke")

    def fail(*_: object) -> None:
        raise error

    diary, broken = Diary(priority=-1), Callback()
    if failing.startswith("on_"):
        setattr(broken, failing, fail)
    trainer = build_trainer(
        broken,
        diary,
        outcomes={2: error} if failing == "step" else {},
        restore=fail if failing == "restore" else None,
    )
    with pytest.raises(TrainingError) as caught:
        trainer.fit()
    assert caught.value is error
    assert [entry for entry in diary.entries if entry.startswith("train_end")] == [f"train_end {trainer.state.step}"]
    assert trainer.lifecycle.reason is StopReason.FAILED
    assert trainer.lifecycle.error is error


class BreaksAtTheEnd(Callback):
    priority = 99

    def on_train_end(self, trainer: Trainer) -> None:
        raise ValueError("closing failed")


def test_a_callback_that_fails_at_the_end_closes_no_other_out(build_trainer: TrainerBuilder) -> None:
    diary = Diary()
    with pytest.raises(ValueError, match="closing failed"):
        build_trainer(BreaksAtTheEnd(), diary).fit()
    assert diary.entries[-1] == "train_end 6"


def test_a_callback_that_fails_at_the_end_hides_no_error(build_trainer: TrainerBuilder) -> None:
    diary = Diary()
    trainer = build_trainer(BreaksAtTheEnd(), diary, outcomes={2: TrainingError("it broke")})
    with pytest.raises(TrainingError, match="it broke") as caught:
        trainer.fit()
    assert caught.value.__notes__ == ["on_train_end failed too: ValueError: closing failed"]
    assert diary.entries[-1] == "train_end 1"


def test_a_run_stops_after_the_step_in_which_it_was_asked(build_trainer: TrainerBuilder) -> None:
    class Stop(Callback):
        def on_step_end(self, trainer: Trainer, result: StepResult) -> None:
            if result.step == 2:
                trainer.stop(StopReason.EARLY_STOPPING)
                trainer.stop(StopReason.TIME_LIMIT)

    diary = Diary(priority=-1)
    trainer = build_trainer(Stop(), diary)
    assert trainer.fit() is StopReason.EARLY_STOPPING, "the first reason counts"
    assert diary.entries[-2:] == ["step_end 2", "train_end 2"]


def test_a_run_that_was_asked_to_stop_in_its_last_step_is_finished(build_trainer: TrainerBuilder) -> None:
    assert build_trainer(StopAfter(6), total_steps=6).fit() is StopReason.FINISHED


def test_validation_and_saving_have_their_events_and_stop_the_clock(build_trainer: TrainerBuilder) -> None:
    seen: list[Mapping[str, float]] = []

    def evaluate_slowly() -> dict[str, float]:
        time.sleep(0.3)
        return {"eval/loss": 2.5}

    class Work(Callback):
        def on_step_end(self, trainer: Trainer, result: StepResult) -> None:
            if result.step == 1:
                before = trainer.clock.seconds
                trainer.validate(evaluate_slowly)
                trainer.save()
                assert trainer.clock.seconds - before < 0.2

        def on_validation_end(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
            seen.append(metrics)

    diary = Diary(priority=1)
    trainer = build_trainer(diary, Work(), total_steps=1)
    trainer.fit()
    at = diary.entries.index("step_end 1")
    assert diary.entries[at + 1 : at + 5] == ["validation_begin 1", "log 1", "validation_end 1", "checkpoint 1"]
    assert seen == [{"eval/loss": 2.5}]
    assert trainer.metrics == {"eval/loss": 2.5}


def test_the_stopwatch_leaves_pauses_out() -> None:
    watch = Stopwatch()
    assert watch.seconds == 0.0
    watch.start()
    time.sleep(0.02)
    with watch.paused(), watch.paused():
        before = watch.seconds
        time.sleep(0.3)
        assert watch.seconds == before >= 0.02
    assert watch.seconds < before + 0.2
    with pytest.raises(ValueError, match="inside"), watch.paused():
        raise ValueError("inside")
    before = watch.seconds
    time.sleep(0.01)
    assert watch.seconds > before, "it runs on after an error inside a pause"
