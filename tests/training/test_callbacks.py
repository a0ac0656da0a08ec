from __future__ import annotations

import hashlib
import io
import json
import math
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from recipe_exp.errors import CheckpointError, ConfigError, ExitCode, TrainingError
from recipe_exp.tracking import Journal, RunFolder
from recipe_exp.tracking.machine_metrics import MACHINE_METRICS
from recipe_exp.training import checkpoint
from recipe_exp.training.callbacks import EVENTS, Callback, CallbackList, import_callbacks
from recipe_exp.training.callbacks import checkpoint as callbacks_of_checkpoints
from recipe_exp.training.callbacks.checkpoint import Best, CheckpointCallback
from recipe_exp.training.callbacks.console import ConsoleCallback
from recipe_exp.training.callbacks.evaluation import (
    BestMetric,
    EarlyStoppingCallback,
    EvaluationCallback,
    TimeLimitCallback,
)
from recipe_exp.training.callbacks.journal import JournalCallback
from recipe_exp.training.callbacks.metrics import Arithmetic, MetricsCallback
from recipe_exp.training.guard import Guard, Policy, RollbackError
from recipe_exp.training.lifecycle import StopReason
from recipe_exp.training.state import StepResult
from recipe_exp.training.time_spent import ACTIVITIES, TimeSpent
from recipe_exp.training.trainer import Trainer

TrainerBuilder = Callable[..., Trainer]
NAN = float("nan")
LOSS = BestMetric("eval/loss", "min")


class Counter(Callback):
    """Counts steps and keeps the count over an interruption."""

    def __init__(self) -> None:
        self.count = 0

    def on_step_end(self, trainer: Trainer, result: StepResult) -> None:
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


class Log(Callback):
    """Keeps what was logged."""

    def __init__(self) -> None:
        self.entries: dict[int, dict[str, float]] = {}

    def on_log(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        self.entries.setdefault(trainer.state.step, {}).update(metrics)


def keep(values: Sequence[float]) -> list[float]:
    """Sums over the only process."""
    return list(values)


def metrics_every(
    every_n_steps: int,
    policy: Policy = "stop",
    sum_over_processes: Callable[[Sequence[float]], Sequence[float]] = keep,
    *,
    max_loss_increase: float | None = None,
    reports: list[str] | None = None,
    arithmetic: Arithmetic | None = None,
) -> MetricsCallback:
    """Metrics of a run whose recipes and checkpoints have simple names."""
    guard = Guard(
        policy,
        max_loss_increase,
        describe_window=lambda step: f"recipes of step {step}",
        last_checkpoint=lambda: "step-00000002",
        report=(reports if reports is not None else []).append,
    )
    return MetricsCallback(every_n_steps, guard, sum_over_processes, arithmetic)


def evaluation_of(*values: float, every_n_steps: int = 1) -> EvaluationCallback:
    """Finds the next value at every evaluated step."""
    left = list(values)
    return EvaluationCallback(lambda _step: {"eval/loss": left.pop(0)}, every_n_steps)


# Names


def test_a_method_that_is_no_event_is_refused_with_the_nearest() -> None:
    class Typo(Callback):
        def on_step_ends(self, trainer: Trainer) -> None: ...

        def on_validate_end(self, trainer: Trainer) -> None: ...

    with pytest.raises(ConfigError) as caught:
        CallbackList([Callback(), Typo()])
    assert list(caught.value.mistakes) == [
        "Typo.on_step_ends: no such event; did you mean on_step_end?",
        "Typo.on_validate_end: no such event; did you mean on_validation_end?",
    ]


def test_every_event_has_a_method_to_override() -> None:
    assert {name for name in dir(Callback) if name.startswith("on_")} == set(EVENTS)


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "kitchen.py").write_text(
        "from recipe_exp.training.callbacks import Callback\n"
        "class Mine(Callback):\n    priority = 7\n"
        "class NeedsMore(Callback):\n    def __init__(self, colour):\n        pass\n"
        "class Other:\n    pass\n",
        encoding="utf-8",
    )
    (tmp_path / "broken.py").write_text("def f(:\n", encoding="utf-8")
    (tmp_path / "raising.py").write_text("raise ValueError('two\\nlines')\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield "kitchen"
    for name in ("kitchen", "broken", "raising"):
        sys.modules.pop(name, None)


def test_named_callbacks_are_imported_in_order(user_module: str) -> None:
    found = import_callbacks([f"{user_module}:Mine", "recipe_exp.training.callbacks:Callback"])
    assert [type(callback).__name__ for callback in found] == ["Mine", "Callback"]
    assert found[0].priority == 7
    assert import_callbacks([]) == []


def test_all_that_cannot_be_imported_is_told_together_one_line_each(user_module: str) -> None:
    names = ["no_such:Mine", "kitchen:Missing", "kitchen:Other", "kitchen:NeedsMore", "broken:Mine", "raising:Mine"]
    with pytest.raises(ConfigError) as caught:
        import_callbacks([*names, "kitchen:Mine"])
    assert [line.split(":")[0:2] for line in caught.value.mistakes] == [
        [f"training.callbacks={name.split(':')[0]}", name.split(":")[1]] for name in names
    ]
    assert not any("\n" in line for line in caught.value.mistakes)
    assert "importable" in caught.value.mistakes[0]
    assert "not a subclass" in caught.value.mistakes[2]
    assert "without arguments" in caught.value.mistakes[3]
    assert "two lines" in caught.value.mistakes[5]


# State


def test_the_state_of_every_callback_survives(build_trainer: TrainerBuilder) -> None:
    counters = [Counter(), Counter()]
    counters[1].count = 100
    trainer = build_trainer(*counters)
    trainer.fit()
    state = json.loads(json.dumps(trainer.state_dict()))
    assert state["callbacks"] == {"Counter": {"count": 6}, "Counter#2": {"count": 106}}
    restored = [Counter(), Counter(), Counter()]
    build_trainer(*restored).load_state_dict(state)
    assert [counter.count for counter in restored] == [6, 106, 0]


# Metrics


def test_the_loss_is_averaged_over_target_tokens(build_trainer: TrainerBuilder) -> None:
    log = Log()
    outcomes = {
        1: {"loss": 4.0, "num_target_tokens": 30},
        2: {"loss": 1.0, "num_target_tokens": 10},
        3: {"loss": 2.0, "num_target_tokens": 5},
    }
    build_trainer(metrics_every(2), log, total_steps=3, outcomes=outcomes).fit()
    assert sorted(log.entries) == [2, 3], "every second step, and the last"
    assert log.entries[2]["train/loss"] == pytest.approx((4.0 * 30 + 1.0 * 10) / 40)
    assert log.entries[3]["train/loss"] == pytest.approx(2.0)
    assert log.entries[2]["train/learning_rate"] == 0.01
    assert log.entries[2]["train/grad_norm"] == 1.5
    assert log.entries[2]["train/epoch"] == 0.5
    assert log.entries[2]["train/padding_share"] == pytest.approx(1 - (30 + 10 + 12) / 40)
    rates = log.entries[2]["train/target_tokens_per_second"], log.entries[2]["train/recipes_per_second"]
    assert rates[0] / rates[1] == pytest.approx(40 / 4)


def test_a_save_within_an_interval_changes_no_logged_number(build_trainer: TrainerBuilder) -> None:
    outcomes = {step: {"loss": 1 / 3 + step, "num_target_tokens": 7 * step} for step in range(1, 11)}
    saved: dict[str, Any] = {}

    class Save(Callback):
        def on_step_end(self, trainer: Trainer, result: StepResult) -> None:
            if result.step == 7:
                trainer.save()
                saved.update(json.loads(json.dumps(trainer.state_dict())))

    def logged(*more: Callback, restore: Callable[[Trainer], None] | None = None) -> dict[int, float]:
        log = Log()
        callbacks = [metrics_every(5), log, *more]
        build_trainer(*callbacks, total_steps=10, outcomes=outcomes, restore=restore).fit()
        return {step: metrics["train/loss"] for step, metrics in log.entries.items()}

    whole = logged(Save())
    resumed = logged(restore=lambda trainer: trainer.load_state_dict(saved))
    assert resumed == {10: whole[10]}, "bit for bit"
    assert whole == pytest.approx(logged())


def test_sums_of_several_processes_are_saved_whole(build_trainer: TrainerBuilder) -> None:
    """The main process alone saves, and every process restores what it saved."""

    class Save(Callback):
        def on_step_end(self, trainer: Trainer, result: StepResult) -> None:
            trainer.save()

    def times_three(values: Sequence[float]) -> list[float]:
        return [3 * value for value in values]

    log = Log()
    build_trainer(metrics_every(4, "stop", times_three), Save(), log, total_steps=4).fit()
    assert log.entries[4]["train/loss"] == pytest.approx(3 * 2.0)


def test_seconds_before_an_interruption_count_for_the_throughput(build_trainer: TrainerBuilder) -> None:
    callback = metrics_every(10)
    trainer = build_trainer(callback)
    callback.load_state_dict({**callback.state_dict(), "seconds": 50.0})
    log = Log()
    trainer = build_trainer(callback, log, total_steps=5)
    trainer.fit()
    assert log.entries[5]["train/recipes_per_second"] == pytest.approx(2 * 5 / 50.0, rel=0.05)


def test_utilisation_is_the_arithmetic_of_the_recipes_over_what_the_devices_could_do(
    build_trainer: TrainerBuilder,
) -> None:
    arithmetic = Arithmetic(lambda source, target: 100 * source + 1000 * target, peak_flops_per_second=10_000)
    callback, log = metrics_every(10, arithmetic=arithmetic), Log()
    callback.load_state_dict({**callback.state_dict(), "seconds": 50.0})
    build_trainer(callback, log, total_steps=5).fit()
    # Five steps of two recipes with 6 source and 10 target tokens together.
    assert log.entries[5]["train/utilisation"] == pytest.approx(10 * (100 * 3 + 1000 * 5) / (50 * 10_000), rel=0.05)


def test_shares_of_time_are_of_all_that_passed_since_the_last_logged_point(build_trainer: TrainerBuilder) -> None:
    passed = [0.0]

    def passes(seconds: float) -> None:
        passed[0] += seconds

    class Slow(Callback):
        def on_step_begin(self, trainer: Trainer) -> None:
            passes(8)

        def on_log(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
            passes(1)

        def on_checkpoint(self, trainer: Trainer) -> None:
            passes(2)

        def on_step_end(self, trainer: Trainer, result: StepResult) -> None:
            trainer.request_save()

    def evaluate(step: int) -> Mapping[str, float]:
        passes(4)
        return {"eval/loss": 1.0}

    def windows(start: int) -> Iterator[Any]:
        for step in range(start, 2):
            passes(2)
            yield step

    log = Log()
    trainer = build_trainer(metrics_every(1), log, Slow(), EvaluationCallback(evaluate, 1), total_steps=2)
    trainer.windows, trainer.spent = windows, TimeSpent(lambda: passed[0])
    trainer.fit()
    shares = {name: log.entries[2][f"train/{name}_share"] for name in ACTIVITIES}
    # Told of training and evaluation, evaluated, saved, waited, learnt.
    whole = 1 + 1 + 4 + 2 + 2 + 8
    expected = {"data_wait": 2 / whole, "evaluation": 4 / whole, "logging": 2 / whole, "checkpoint": 2 / whole}
    assert shares == pytest.approx(expected)
    assert log.entries[1]["train/data_wait_share"] == pytest.approx(2 / 10)
    assert log.entries[1].keys() >= MACHINE_METRICS - {
        "train/utilisation",
        "train/compile_seconds",
        "train/compile_speedup",
    }


def test_a_non_finite_step_stops_the_run_and_is_named(build_trainer: TrainerBuilder) -> None:
    outcomes = {3: {"is_finite": False, "loss": NAN}, 4: {"is_finite": False, "loss": NAN}}
    log = Log()
    trainer = build_trainer(metrics_every(5), log, outcomes=outcomes)
    with pytest.raises(TrainingError, match=r"^step 3: .*training\.learning_rate.*training\.on_non_finite") as caught:
        trainer.fit()
    assert "\n" not in str(caught.value)
    assert trainer.lifecycle.reason.exit_code == caught.value.exit_code == 1
    assert log.entries == {}


def test_a_faulty_step_names_its_recipes_and_the_last_good_checkpoint(build_trainer: TrainerBuilder) -> None:
    outcomes = {2: {"is_finite": False, "num_target_tokens": 0}, 3: {"is_finite": False}}
    with pytest.raises(TrainingError) as caught:
        build_trainer(metrics_every(4), outcomes=outcomes).fit()
    assert str(caught.value).startswith(
        "step 2: its window has no target token (so in steps 3); the weights were not updated with it. "
        "It learnt from recipes of step 2; the last good checkpoint is step-00000002; "
    )


def test_a_loss_that_explodes_stops_the_run_after_it_was_logged(build_trainer: TrainerBuilder) -> None:
    outcomes = {1: {"loss": 2.5}, 2: {"loss": 2.0}, 3: {"loss": 4.9}, 4: {"loss": 5.1}}
    log = Log()
    trainer = build_trainer(metrics_every(1, max_loss_increase=3.0), log, outcomes=outcomes)
    with pytest.raises(TrainingError, match=r"^step 4: the loss exploded to 5.1 from 2\. .*training.max_loss_increase"):
        trainer.fit()
    assert log.entries[4]["train/loss"] == pytest.approx(5.1)
    lenient = build_trainer(metrics_every(1, max_loss_increase=None), outcomes=outcomes)
    assert lenient.fit() is StopReason.FINISHED


def test_the_lowest_loss_survives_an_interruption(build_trainer: TrainerBuilder) -> None:
    first = metrics_every(1, max_loss_increase=3.0)
    build_trainer(first, outcomes={1: {"loss": 1.0}}, total_steps=2).fit()
    second = metrics_every(1, max_loss_increase=3.0)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    with pytest.raises(TrainingError, match=r"exploded to 4\.5 from 1"):
        build_trainer(second, outcomes={1: {"loss": 4.5}}).fit()


def test_nothing_is_evaluated_between_a_faulty_step_and_its_discovery(build_trainer: TrainerBuilder) -> None:
    callbacks = (metrics_every(100), evaluation_of(1.0, every_n_steps=2))
    log = Log()
    with pytest.raises(TrainingError, match=r"^step 1: "):
        build_trainer(*callbacks, log, outcomes={1: {"is_finite": False}}).fit()
    assert log.entries == {}


def test_a_rollback_goes_back_and_passes_the_windows_over(build_trainer: TrainerBuilder) -> None:
    """Steps 1-4 are saved; in 6 something breaks, so 5 and 6 are taken back and 7 follows on 4."""
    saved: dict[str, Any] = {}
    learnt: list[int] = []

    class Save(Callback):
        def on_step_end(self, trainer: Trainer, result: StepResult) -> None:
            learnt.append(result.step)
            if result.step == 4:
                saved.update(json.loads(json.dumps(trainer.state_dict())))

    def roll_back(trainer: Trainer, fault: RollbackError) -> None:
        assert str(fault).startswith("step 6: ")
        trainer.load_state_dict(saved)

    log = Log()
    trainer = build_trainer(
        metrics_every(2, "rollback"),
        Save(),
        log,
        outcomes={6: {"is_finite": False}},
        total_steps=8,
        roll_back=roll_back,
    )
    assert trainer.fit() is StopReason.FINISHED
    assert learnt == [1, 2, 3, 4, 5, 7, 8]
    assert trainer.state.state_dict() == {
        "step": 8,
        "num_examples": 6 * 2,
        "num_target_tokens": 6 * 10,
        "num_skipped_steps": 2,
    }
    assert log.entries[8]["train/skipped_steps"] == 2.0


def test_a_rollback_without_a_way_back_ends_the_run(build_trainer: TrainerBuilder) -> None:
    trainer = build_trainer(metrics_every(1, "rollback"), outcomes={1: {"is_finite": False}})
    with pytest.raises(TrainingError, match=r"^step 1: "):
        trainer.fit()


def test_a_non_finite_step_stops_the_run_before_it_is_saved(build_trainer: TrainerBuilder) -> None:
    saves: list[int] = []

    class Save(Callback):
        def on_step_end(self, trainer: Trainer, result: StepResult) -> None:
            if result.step == 2:
                trainer.save()

        def on_checkpoint(self, trainer: Trainer) -> None:
            saves.append(trainer.state.step)

    trainer = build_trainer(metrics_every(100), Save(), outcomes={1: {"is_finite": False}})
    with pytest.raises(TrainingError, match=r"^step 1: "):
        trainer.fit()
    assert saves == []


def test_skipped_steps_are_counted_and_left_out_of_the_mean(build_trainer: TrainerBuilder) -> None:
    outcomes = {2: {"is_finite": False, "loss": NAN}, 4: {"is_finite": False, "loss": math.inf}}
    log = Log()
    reports: list[str] = []
    build_trainer(metrics_every(3, "skip_step", reports=reports), log, outcomes=outcomes).fit()
    assert [log.entries[step]["train/loss"] for step in (3, 6)] == [2.0, 2.0]
    assert [line.partition(";")[0] for line in reports] == [
        "warning: step 2: its gradient is not finite",
        "warning: step 4: its gradient is not finite",
    ]
    assert [log.entries[step]["train/skipped_steps"] for step in (3, 6)] == [1.0, 2.0]


# Evaluation and what it decides


def test_evaluation_comes_every_n_steps_and_at_the_end(build_trainer: TrainerBuilder) -> None:
    evaluated: list[int] = []
    sampled: list[int] = []

    def evaluate(step: int) -> dict[str, float]:
        evaluated.append(step)
        return {}

    build_trainer(EvaluationCallback(evaluate, 4, sampled.append, 3), total_steps=10).fit()
    assert evaluated == [4, 8, 10]
    assert sampled == [3, 6, 9], "an evaluation writes samples of its own"
    evaluated.clear()
    build_trainer(EvaluationCallback(evaluate, None), total_steps=10).fit()
    assert evaluated == [10]


def test_a_signal_gives_an_evaluation_up_and_the_resumed_run_makes_it(build_trainer: TrainerBuilder) -> None:
    def interrupted_evaluation(_step: int) -> dict[str, float]:
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("the signal does not wait")

    first = EvaluationCallback(interrupted_evaluation, 4)
    log = Log()
    trainer = build_trainer(first, log)
    assert trainer.fit() is StopReason.SIGTERM
    assert (trainer.state.step, log.entries) == (4, {})
    saved = json.loads(json.dumps(trainer.state_dict()))

    second = evaluation_of(1.5, 1.25, every_n_steps=4)
    resumed = build_trainer(second, log, restore=lambda trainer: trainer.load_state_dict(saved))
    assert resumed.fit() is StopReason.FINISHED
    assert log.entries == {4: {"eval/loss": 1.5}, 6: {"eval/loss": 1.25}}
    assert second.state_dict() == {"owed": None}


def test_a_run_whose_last_evaluation_was_given_up_is_not_finished(build_trainer: TrainerBuilder) -> None:
    def interrupted_evaluation(_step: int) -> dict[str, float]:
        signal.raise_signal(signal.SIGINT)
        return {}

    trainer = build_trainer(EvaluationCallback(interrupted_evaluation, None))
    assert trainer.fit() is StopReason.SIGINT
    assert trainer.state.step == trainer.length.total_steps


def test_samples_are_given_up_and_made_later_too(build_trainer: TrainerBuilder) -> None:
    written: list[int] = []

    def write(step: int) -> None:
        if not written:
            written.append(-step)
            signal.raise_signal(signal.SIGTERM)
        written.append(step)

    trainer = build_trainer(EvaluationCallback(lambda _step: {}, None, write, 2))
    assert trainer.fit() is StopReason.SIGTERM
    saved = trainer.state_dict()
    build_trainer(
        EvaluationCallback(lambda _step: {}, None, write, 2),
        restore=lambda trainer: trainer.load_state_dict(saved),
    ).fit()
    assert written == [-2, 2, 4]


@pytest.mark.parametrize(
    ("mode", "values", "stops_at"),
    [
        ("min", [3.0, 2.0, 2.0, 1.9, 2.5, 2.4, 1.0], 6),
        ("max", [1.0, 2.0, 3.0, 2.9, 3.0, 9.0, 9.0], 5),
        ("min", [NAN, NAN, 1.0, 1.0, 1.0, 1.0, 1.0], 2),
        ("min", [5.0, NAN, 4.0, NAN, NAN, 1.0, 1.0], 5),
        ("min", [7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0], 7),
    ],
)
def test_early_stopping_waits_for_its_patience(
    build_trainer: TrainerBuilder, mode: str, values: list[float], stops_at: int
) -> None:
    callback = EarlyStoppingCallback(BestMetric("eval/loss", mode), patience=2, threshold=0.0)
    trainer = build_trainer(evaluation_of(*values), callback, total_steps=7)
    reason = trainer.fit()
    assert trainer.state.step == stops_at
    assert reason is (StopReason.FINISHED if stops_at == 7 else StopReason.EARLY_STOPPING)
    assert reason.exit_code == ExitCode.FINISHED


def test_a_gain_up_to_the_threshold_does_not_count(build_trainer: TrainerBuilder) -> None:
    callback = EarlyStoppingCallback(LOSS, patience=3, threshold=0.1)
    trainer = build_trainer(evaluation_of(3.0, 2.95, 2.9, 2.85, 2.0, 1.0), callback)
    trainer.fit()
    assert callback.best == 1.0
    assert trainer.state.step == 6, "2.85 is 0.15 better than 3.0, however small the last gain"


def test_the_count_of_early_stopping_survives(build_trainer: TrainerBuilder) -> None:
    first = EarlyStoppingCallback(LOSS, patience=3, threshold=0.0)
    build_trainer(evaluation_of(1.0, 2.0, 2.0), first, total_steps=3).fit()
    second = EarlyStoppingCallback(LOSS, patience=3, threshold=0.0)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    trainer = build_trainer(evaluation_of(2.0, 2.0), second)
    assert trainer.fit() is StopReason.EARLY_STOPPING
    assert trainer.state.step == 1


def test_a_time_limit_interrupts_the_run(build_trainer: TrainerBuilder) -> None:
    hours = iter([0.0, 0.4, 0.8, 1.0, 2.0])
    trainer = build_trainer(TimeLimitCallback(1.0, lambda: next(hours) * 3600))
    assert trainer.fit() is StopReason.TIME_LIMIT
    assert trainer.state.step == 3


# Checkpoints


class Saver:
    """The real files of a run, with one tensor for a model."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.lines: list[str] = []
        self.bests: list[Best] = []
        self.fails_at: set[int] = set()
        self.callback = CheckpointCallback(
            folder / "checkpoints",
            folder / "model",
            write=self.write,
            on_best=self.bests.append,
            report=self.lines.append,
            resume_command="python -m recipe_exp resume=RUN",
            **{"every_n_steps": None, "keep_best": 1, "metric": LOSS, **settings},
        )

    def write(self, trainer: Trainer) -> Path:
        if trainer.state.step in self.fails_at:
            raise CheckpointError("disk full")
        return checkpoint.write_checkpoint(
            self.folder / "checkpoints",
            trainer.state.step,
            weights_file="model.safetensors",
            weights={"step": torch.tensor(trainer.state.step)},
            optimizer={"moment": torch.zeros(2)},
            state=trainer.state_dict(),
            describe=lambda folder: void((folder / "config.json").write_text("{}")),
        )

    @property
    def steps(self) -> list[int]:
        return [checkpoint.step_of(path) for path in checkpoint.list_checkpoints(self.folder / "checkpoints")]

    @property
    def model_step(self) -> int:
        from safetensors.torch import load_file

        return int(load_file(self.folder / "model" / "model.safetensors")["step"])

    def restore(self, trainer: Trainer) -> None:
        path, _ = checkpoint.newest_sound(self.folder / "checkpoints")
        if path is not None:
            trainer.load_state_dict(checkpoint.read_checkpoint(path, "model.safetensors").state)


def void(_value: object) -> None:
    """Drops a value."""


def test_checkpoints_come_every_n_steps_at_the_best_and_at_the_end(
    build_trainer: TrainerBuilder, tmp_path: Path
) -> None:
    written: list[int] = []

    class Watch(Callback):
        def on_checkpoint(self, trainer: Trainer) -> None:
            written.append(trainer.state.step)

    saver = Saver(tmp_path, every_n_steps=4, keep_best=9)
    evaluation = evaluation_of(3.0, 2.0, 2.5, 2.5, every_n_steps=3)
    build_trainer(saver.callback, evaluation, Watch(), total_steps=10).fit()
    assert written == [3, 4, 6, 8, 9, 10]


@pytest.mark.parametrize(
    ("mode", "values", "best_steps"),
    [
        ("min", [3.0, 1.0, 2.0, 5.0], [2, 3]),
        ("max", [3.0, 1.0, 2.0, 5.0], [4, 1]),
        ("min", [1.0, 1.0, 1.0, 1.0], [1, 2]),
        ("min", [NAN, 2.0, NAN, 9.0], [2, 4]),
        ("max", [NAN, -math.inf, 1.0, NAN], [3, 2]),
        ("min", [NAN, NAN, NAN, NAN], []),
    ],
)
def test_the_best_are_ranked_and_kept_beside_the_newest(
    build_trainer: TrainerBuilder, tmp_path: Path, mode: str, values: list[float], best_steps: list[int]
) -> None:
    saver = Saver(tmp_path, every_n_steps=1, keep_best=2, metric=BestMetric("eval/loss", mode))
    build_trainer(saver.callback, evaluation_of(*values), total_steps=4).fit()
    assert [best.step for best in saver.callback.ranking] == best_steps
    assert set(saver.steps) == {4, *best_steps}
    assert saver.model_step == (best_steps[0] if best_steps else 4)
    assert [best.step for best in saver.bests][-1:] == best_steps[:1]
    names = {file.name for file in (tmp_path / "model").iterdir()}
    assert names == {"config.json", "model.safetensors", "manifest.json"}, "what loads, without the state of training"


def test_without_an_evaluation_the_newest_is_the_model(build_trainer: TrainerBuilder, tmp_path: Path) -> None:
    saver = Saver(tmp_path, every_n_steps=2)
    build_trainer(saver.callback, total_steps=5).fit()
    assert saver.model_step == 5
    assert saver.bests == []
    assert saver.steps == [5]


class StopAt(Callback):
    """Ends the run after a step."""

    def __init__(self, step: int, reason: StopReason) -> None:
        self.step, self.reason = step, reason

    def on_step_end(self, trainer: Trainer, result: StepResult) -> None:
        if result.step == self.step:
            trainer.stop(self.reason)


@pytest.mark.parametrize("reason", [StopReason.SIGTERM, StopReason.TIME_LIMIT, StopReason.EARLY_STOPPING])
def test_an_early_end_is_saved_once(build_trainer: TrainerBuilder, tmp_path: Path, reason: StopReason) -> None:
    saver = Saver(tmp_path)
    assert build_trainer(saver.callback, StopAt(2, reason)).fit() is reason
    assert saver.steps == [2]


def test_a_run_that_is_stopped_after_a_fault_saves_nothing_and_goes_back_when_it_continues(
    build_trainer: TrainerBuilder, tmp_path: Path
) -> None:
    saver = Saver(tmp_path, every_n_steps=2)
    callbacks = (metrics_every(100, "rollback"), saver.callback, StopAt(3, StopReason.SIGTERM))
    assert build_trainer(*callbacks, outcomes={3: {"is_finite": False}}).fit() is StopReason.SIGTERM
    assert saver.steps == [2]
    assert [line.partition(":")[2].partition(";")[0] for line in saver.lines] == [" step 3: its gradient is not finite"]


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()])
def test_what_an_error_left_behind_is_not_saved(
    build_trainer: TrainerBuilder, tmp_path: Path, error: BaseException
) -> None:
    """The weights may have been updated although the step is not counted."""
    saver = Saver(tmp_path, every_n_steps=2)
    with pytest.raises(type(error)):
        build_trainer(saver.callback, outcomes={4: error}).fit()
    assert saver.steps == [2]


def test_a_disk_that_is_full_for_a_while_does_not_end_the_run(build_trainer: TrainerBuilder, tmp_path: Path) -> None:
    saver = Saver(tmp_path, every_n_steps=1)
    saver.fails_at = {2, 3, 5}
    assert build_trainer(saver.callback).fit() is StopReason.FINISHED
    assert saver.lines == [
        "warning: disk full; training goes on",
        "warning: step-00000003 could not be saved either",
        "warning: disk full; training goes on",
    ]
    assert saver.steps == [6]


def test_a_best_that_could_not_be_saved_does_not_push_the_best_one_out(
    build_trainer: TrainerBuilder, tmp_path: Path
) -> None:
    saver = Saver(tmp_path)
    saver.fails_at = {4}
    build_trainer(saver.callback, evaluation_of(2.0, 1.0, 5.0, every_n_steps=2)).fit()
    assert [best.step for best in saver.callback.ranking] == [2]
    assert (saver.steps, saver.model_step) == ([2, 6], 2)
    assert saver.lines == [
        "warning: disk full; this step is the best so far, and model/ stays as it was; training goes on"
    ]


def test_a_last_save_that_fails_fails_the_run(build_trainer: TrainerBuilder, tmp_path: Path) -> None:
    saver = Saver(tmp_path)
    saver.fails_at = {6}
    with pytest.raises(CheckpointError) as caught:
        build_trainer(saver.callback).fit()
    assert str(caught.value) == "disk full; free some space, then continue with python -m recipe_exp resume=RUN"


@pytest.mark.parametrize("reason", [StopReason.SIGINT, StopReason.SIGTERM, StopReason.TIME_LIMIT])
def test_an_interrupted_run_that_cannot_be_saved_says_where_it_goes_on(
    build_trainer: TrainerBuilder, tmp_path: Path, reason: StopReason
) -> None:
    saver = Saver(tmp_path, every_n_steps=2)
    saver.fails_at = {3}
    assert build_trainer(saver.callback, StopAt(3, reason)).fit() is reason
    assert saver.lines == ["warning: disk full; the run will go on from step-00000002"]


def test_an_early_end_that_cannot_be_saved_fails_the_run(build_trainer: TrainerBuilder, tmp_path: Path) -> None:
    saver = Saver(tmp_path)
    saver.fails_at = {3}
    with pytest.raises(CheckpointError, match="disk full; free some space"):
        build_trainer(saver.callback, StopAt(3, StopReason.EARLY_STOPPING)).fit()


def test_a_model_that_could_not_be_published_is_with_the_next_checkpoint(
    build_trainer: TrainerBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = callbacks_of_checkpoints.publish_model
    failures = iter([True, False])

    def refuse_once(source: Path, model: Path) -> None:
        if next(failures):
            raise OSError(28, "No space left on device")
        publish(source, model)

    monkeypatch.setattr(callbacks_of_checkpoints, "publish_model", refuse_once)
    saver = Saver(tmp_path, every_n_steps=2)
    build_trainer(saver.callback, evaluation_of(1.0, 2.0, 3.0, every_n_steps=2)).fit()
    assert saver.lines == [
        f"warning: {tmp_path / 'model'}: cannot be written (No space left on device) and stays as it was; training "
        "goes on"
    ]
    assert (saver.steps, saver.model_step, saver.bests) == ([2, 6], 2, [Best(2, 1.0)])


def test_a_continued_run_reads_no_weights_again(
    build_trainer: TrainerBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_trainer(Saver(tmp_path).callback, evaluation_of(1.0, 2.0, 3.0), total_steps=3).fit()
    saver = Saver(tmp_path)
    assert saver.steps == [1, 3]

    def restore(trainer: Trainer) -> None:
        saver.restore(trainer)
        monkeypatch.setattr(hashlib, "file_digest", None)

    build_trainer(saver.callback, total_steps=3, restore=restore).fit()
    assert saver.bests == [Best(1, 1.0)]


def test_what_a_kill_kept_from_being_pruned_goes_with_the_next_start(
    build_trainer: TrainerBuilder, tmp_path: Path
) -> None:
    saver = Saver(tmp_path, every_n_steps=1, keep_best=9)
    build_trainer(saver.callback, evaluation_of(1.0, 2.0, 3.0, 4.0), total_steps=4).fit()
    assert saver.steps == [1, 2, 3, 4]
    (tmp_path / "checkpoints" / "step-00000004" / "manifest.json").write_text("damaged")
    again = Saver(tmp_path, keep_best=1)
    build_trainer(again.callback, total_steps=3, restore=again.restore).fit()
    assert again.steps == [1, 3, 4], "the best, the present one, and the damaged one, which somebody may look at"


def test_a_checkpoint_holds_what_every_callback_has_heard(build_trainer: TrainerBuilder, tmp_path: Path) -> None:
    counter, saver = Counter(), Saver(tmp_path, every_n_steps=2)
    build_trainer(saver.callback, counter).fit()
    state = checkpoint.read_checkpoint(tmp_path / "checkpoints" / "step-00000006", "model.safetensors").state
    assert state["callbacks"]["Counter"] == counter.state_dict()


def test_the_ranking_survives_and_the_best_stays(build_trainer: TrainerBuilder, tmp_path: Path) -> None:
    build_trainer(Saver(tmp_path).callback, evaluation_of(2.0, 1.0, 3.0), total_steps=3).fit()
    saver = Saver(tmp_path)
    build_trainer(saver.callback, evaluation_of(4.0, 1.5), total_steps=5, restore=saver.restore).fit()
    assert saver.callback.best == Best(2, 1.0)
    assert saver.steps == [2, 5]
    assert saver.model_step == 2


def test_a_kill_between_a_checkpoint_and_its_publication_is_made_good(
    build_trainer: TrainerBuilder, tmp_path: Path
) -> None:
    build_trainer(Saver(tmp_path).callback, evaluation_of(2.0, 1.0), total_steps=2).fit()
    for left in ("model.previous", "model.partial"):
        shutil.copytree(tmp_path / "model", tmp_path / left)
    shutil.rmtree(tmp_path / "model")
    saver = Saver(tmp_path)
    build_trainer(saver.callback, total_steps=2, restore=saver.restore).fit()
    assert saver.model_step == 2
    assert saver.bests == [Best(2, 1.0)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "model"]


def test_after_a_fall_back_the_damaged_checkpoint_pushes_none_out(
    build_trainer: TrainerBuilder, tmp_path: Path
) -> None:
    saver = Saver(tmp_path, every_n_steps=2, keep_best=9)
    build_trainer(saver.callback, evaluation_of(5.0, 4.0, 3.0, every_n_steps=2)).fit()
    assert saver.steps == [2, 4, 6]
    (tmp_path / "checkpoints" / "step-00000006" / "optimizer.safetensors").unlink()
    again = Saver(tmp_path, every_n_steps=1)
    trainer = build_trainer(again.callback, total_steps=5, restore=again.restore)
    trainer.fit()
    assert trainer.state.step == 5
    assert again.steps == [4, 5], "the best and the newest"
    assert checkpoint.newest_sound(tmp_path / "checkpoints") == (tmp_path / "checkpoints" / "step-00000005", [])


# Console and journal


def test_without_a_terminal_a_line_now_and_then_tells_the_progress(build_trainer: TrainerBuilder) -> None:
    stream = io.StringIO()
    callback = ConsoleCallback(Console(file=stream, width=100))
    build_trainer(metrics_every(1), callback, evaluation_of(1.25, every_n_steps=6)).fit()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2, "the first point; the others come too soon after it"
    assert lines[0].startswith("step 1/6  loss 2.000  rate 1.0e-02  ")
    assert lines[1] == "step 6/6  eval  loss 1.250"


def test_on_a_terminal_a_bar_is_opened_and_closed(build_trainer: TrainerBuilder) -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=120, force_terminal=True)
    callbacks = (metrics_every(1), ConsoleCallback(console), evaluation_of(1.25, every_n_steps=6))
    build_trainer(*callbacks).fit()
    shown = stream.getvalue()
    assert "\x1b[?25l" in shown
    assert shown.rstrip().endswith("\x1b[2K") or "\x1b[?25h" in shown, "the cursor comes back"
    assert "loss 1.250" in shown


def test_the_bar_is_closed_after_an_error(build_trainer: TrainerBuilder) -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=120, force_terminal=True)
    with pytest.raises(ValueError, match="broken"):
        build_trainer(ConsoleCallback(console), outcomes={3: ValueError("broken")}).fit()
    assert "\x1b[?25h" in stream.getvalue()


def test_logged_metrics_reach_the_journal_with_their_step(build_trainer: TrainerBuilder, tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, run_name="small", command=["python"])
    journal = Journal(folder)
    callbacks = (metrics_every(3), JournalCallback(journal), evaluation_of(1.25, every_n_steps=6))
    build_trainer(*callbacks).fit()
    journal.close()
    lines = [json.loads(line) for line in folder.metrics_path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6, 6]
    assert [line["metrics"].get("train/loss") for line in lines] == [2.0, 2.0, None]
    assert lines[2]["metrics"] == {"eval/loss": 1.25}
