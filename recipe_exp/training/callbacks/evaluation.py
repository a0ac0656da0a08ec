"""Evaluation between steps, and what its metric decides: the best checkpoint and the early end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from recipe_exp.signals import Interrupted
from recipe_exp.training.callbacks.callback import Callback
from recipe_exp.training.lifecycle import StopReason
from recipe_exp.training.state import StepResult

if TYPE_CHECKING:
    from recipe_exp.training.trainer import Trainer

Owed: TypeAlias = Literal["evaluation", "samples"]


class EvaluationCallback(Callback):
    """Evaluates every N steps and at the end of the run.

    A signal does not wait for an evaluation, which may take minutes: it is given up, and made when the run continues,
    so that no number is missing.

    Args:
        evaluate: measures the present weights and returns metrics; called on every process.
        every_n_steps: steps between two evaluations; None only evaluates at the end.
        write_samples: writes generated samples of the present weights; called on every process.
        samples_every_n_steps: steps between samples beside those of an evaluation; None adds none.
    """

    priority = 80

    def __init__(
        self,
        evaluate: Callable[[int], Mapping[str, float]],
        every_n_steps: int | None,
        write_samples: Callable[[int], None] | None = None,
        samples_every_n_steps: int | None = None,
    ) -> None:
        self.evaluate = evaluate
        self.every_n_steps = every_n_steps
        self.write_samples = write_samples
        self.samples_every_n_steps = samples_every_n_steps
        self._owed: Owed | None = None

    def on_train_begin(self, trainer: Trainer) -> None:
        """Makes the evaluation that an interruption gave up, and has the position saved with what came of it."""
        if self._owed is not None:
            self._do(trainer, self._owed)
            if self._owed is None:
                trainer.request_save()

    def on_step_end(self, trainer: Trainer, result: StepResult) -> None:
        """Evaluates, or only writes samples, when it is time."""
        if self._is_due(result.step, self.every_n_steps) or result.step == trainer.length.total_steps:
            self._do(trainer, "evaluation")
        elif self.write_samples is not None and self._is_due(result.step, self.samples_every_n_steps):
            self._do(trainer, "samples")

    def state_dict(self) -> dict[str, Any]:
        """What an interruption gave up."""
        return {"owed": self._owed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes it back."""
        self._owed = state.get("owed")

    def _do(self, trainer: Trainer, what: Owed) -> None:
        self._owed = what
        step = trainer.state.step
        try:
            if what == "evaluation":
                trainer.validate(lambda: self.evaluate(step))
            elif self.write_samples is not None:
                with trainer.clock.paused(), trainer.lifecycle.interruptible():
                    self.write_samples(step)
            self._owed = None
        except Interrupted as interruption:
            trainer.lifecycle.give_up(interruption)

    @staticmethod
    def _is_due(step: int, every_n_steps: int | None) -> bool:
        return every_n_steps is not None and step % every_n_steps == 0


class EvaluationCostCallback(Callback):
    """Says once, after the first evaluation between two steps, what evaluations take of the run's time.

    Args:
        describe: makes a line of the seconds of a step; it knows what the evaluation took.
        report: shows it.
    """

    priority = 35

    def __init__(self, describe: Callable[[float], str], report: Callable[[str], None]) -> None:
        self.describe = describe
        self.report = report
        self._first_step = 0
        self._has_told = False

    def on_train_begin(self, trainer: Trainer) -> None:
        """Counts from here."""
        self._first_step = trainer.state.step

    def on_validation_end(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        """Tells, when there were steps to compare with and there are more to come."""
        num_steps = trainer.state.step - self._first_step
        if self._has_told or num_steps == 0 or trainer.state.step == trainer.length.total_steps:
            return
        self._has_told = True
        self.report(self.describe(trainer.clock.seconds / num_steps))


class UntunedCallback(Callback):
    """Has the network write recipes before its first step, while it is what it was tuned from.

    Args:
        write: writes them; called on every process.
        is_known: whether they are there already.
    """

    priority = 82

    def __init__(self, write: Callable[[], None], *, is_known: bool) -> None:
        self.write = write
        self.is_known = is_known

    def on_train_begin(self, trainer: Trainer) -> None:
        """Writes them, unless the run goes on from somewhere; a signal ends the run before its first step."""
        if trainer.state.step == 0 and not self.is_known:
            with trainer.clock.paused():
                self.write()


class BestMetric:
    """The ranking of evaluated steps by one metric."""

    def __init__(self, name: str, mode: str) -> None:
        self.name = name
        self.mode = mode

    def gain(self, value: float, best: float | None) -> float:
        """Returns by how much `value` is better than `best`; infinite without one, minus infinity for NaN."""
        if value != value:
            return float("-inf")
        if best is None:
            return float("inf")
        return best - value if self.mode == "min" else value - best


class EarlyStoppingCallback(Callback):
    """Ends the run when the best metric has not improved for a number of evaluations.

    Args:
        metric: which metric, and its direction.
        patience: evaluations without improvement.
        threshold: a gain that is not larger does not count.
    """

    priority = 70

    def __init__(self, metric: BestMetric, patience: int, threshold: float) -> None:
        self.metric = metric
        self.patience = patience
        self.threshold = threshold
        self.best: float | None = None
        self.num_without_gain = 0

    def on_train_begin(self, trainer: Trainer) -> None:
        """Ends a run that was killed between its last checkpoint and its end."""
        self._stop_if_due(trainer)

    def on_validation_end(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        """Counts evaluations without improvement."""
        value = metrics.get(self.metric.name, float("nan"))
        if self.metric.gain(value, self.best) > self.threshold:
            self.best, self.num_without_gain = value, 0
            return
        self.num_without_gain += 1
        self._stop_if_due(trainer)

    def _stop_if_due(self, trainer: Trainer) -> None:
        if self.num_without_gain >= self.patience:
            trainer.stop(StopReason.EARLY_STOPPING)

    def state_dict(self) -> dict[str, Any]:
        """The best value and the count."""
        return {"best": self.best, "num_without_gain": self.num_without_gain}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes them back."""
        self.best, self.num_without_gain = state["best"], int(state["num_without_gain"])


class TimeLimitCallback(Callback):
    """Stops the run after a number of hours; it is marked as interrupted and can be continued.

    Args:
        hours: since the start of this process's training.
    """

    priority = 65

    def __init__(self, hours: float, now: Callable[[], float]) -> None:
        self.seconds = hours * 3600
        self.now = now
        self._start = 0.0

    def on_train_begin(self, trainer: Trainer) -> None:
        """Counts from here."""
        self._start = self.now()

    def on_step_end(self, trainer: Trainer, result: StepResult) -> None:
        """Stops when the time is over."""
        if self.now() - self._start >= self.seconds:
            trainer.stop(StopReason.TIME_LIMIT)
