"""Training metrics: read from the device every N steps, and judged there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from recipe_exp.training.callbacks.callback import Callback
from recipe_exp.training.guard import Guard
from recipe_exp.training.state import StepResult

if TYPE_CHECKING:
    from recipe_exp.training.trainer import Trainer


@dataclass(frozen=True)
class Arithmetic:
    """What a run computes and could compute.

    Attributes:
        flops_of: returns the floating-point operations of learning from an example of these mean source and target
            tokens, padding left out.
        peak_flops_per_second: of the fastest matrix product, over all devices of the run.
    """

    flops_of: Callable[[float, float], float]
    peak_flops_per_second: float


class MetricsCallback(Callback):
    """Averages the loss over all target tokens between two logged points and logs it with rates and throughput.

    `train/utilisation` is the arithmetic of the recipes over what the devices could have done in the time of the steps.
    Rates and utilisation leave evaluation and saving out. The shares of time, `train/data_wait_share` and its like, are
    of everything since the last logged point, so what follows a logged point counts at the next.

    A step whose gradient was not finite did not change the weights. It is noticed here, when the numbers are read
    anyway, so no step waits for the device; and before anything is evaluated or saved.

    Args:
        every_n_steps: steps between two logged points.
        guard: decides what is done about numbers that went wrong.
        sum_over_processes: returns the elementwise sum of a list of numbers over all processes.
        arithmetic: what the utilisation is reckoned from; None leaves it out.
        compile_seconds: returns how long compiling took so far, which is logged when it has taken longer.
    """

    priority = 90

    def __init__(
        self,
        every_n_steps: int,
        guard: Guard,
        sum_over_processes: Callable[[Sequence[float]], Sequence[float]],
        arithmetic: Arithmetic | None = None,
        compile_seconds: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.every_n_steps = every_n_steps
        self.guard = guard
        self.sum_over_processes = sum_over_processes
        self.arithmetic = arithmetic
        self.compile_seconds = compile_seconds
        self._since_log = _Sums()
        self._seconds_before = 0.0
        self._clock_at_log = 0.0
        self._compile_seconds_logged = 0.0

    def on_step_end(self, trainer: Trainer, result: StepResult) -> None:
        """Adds the step up, and logs when it is time."""
        self._since_log.add(result)
        if result.step % self.every_n_steps == 0 or result.step == trainer.length.total_steps:
            self._log(trainer, result)

    def on_train_begin(self, trainer: Trainer) -> None:
        """Counts seconds from here, and those that a resumed interval took before."""
        self._clock_at_log = -self._seconds_before

    def on_validation_begin(self, trainer: Trainer) -> None:
        """Refuses to rank a state that no check has looked at."""
        self._judge_steps(trainer)

    def on_checkpoint(self, trainer: Trainer) -> None:
        """Refuses to save a state that no check has looked at, and makes the sums those of all processes."""
        self._judge_steps(trainer)
        self._since_log.merge(self.sum_over_processes)
        self._seconds_before = trainer.clock.seconds - self._clock_at_log

    def state_dict(self) -> dict[str, Any]:
        """The sums since the last logged point, so that a resumed run logs the same numbers."""
        return {
            "since_log": self._since_log.state_dict(),
            "seconds": self._seconds_before,
            "guard": self.guard.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the sums back."""
        self._since_log = _Sums()
        self._since_log.load_state_dict(state["since_log"])
        self._seconds_before = float(state["seconds"])
        if "guard" in state:
            self.guard.load_state_dict(state["guard"])

    def _log(self, trainer: Trainer, result: StepResult) -> None:
        self._judge_steps(trainer)
        sums = self._since_log
        sums.merge(self.sum_over_processes)
        seconds = max(trainer.clock.seconds - self._clock_at_log, 1e-9)
        # Without a step that could be applied there is no mean.
        loss = sums.loss / sums.num_target_tokens if sums.num_target_tokens else math.nan
        metrics = {
            "train/loss": loss,
            "train/learning_rate": result.learning_rate,
            "train/grad_norm": float(result.grad_norm),
            "train/epoch": trainer.epoch,
            "train/target_tokens_per_second": sums.num_all_target_tokens / seconds,
            "train/recipes_per_second": sums.num_examples / seconds,
            "train/padding_share": 1.0 - sums.num_real_tokens / max(sums.num_computed_tokens, 1),
            **self._compiling(),
            **{f"train/{activity}_share": share for activity, share in trainer.spent.shares().items()},
        }
        if self.arithmetic is not None:
            metrics["train/utilisation"] = sums.flops(self.arithmetic) / (
                seconds * self.arithmetic.peak_flops_per_second
            )
        if trainer.state.num_skipped_steps:
            metrics["train/skipped_steps"] = float(trainer.state.num_skipped_steps)
        is_judged = sums.num_target_tokens > 0
        self._since_log = _Sums()
        self._clock_at_log, self._seconds_before = trainer.clock.seconds, 0.0
        trainer.spent.start()
        trainer.log(metrics)
        if is_judged:
            self.guard.judge_loss(result.step, loss)

    def _compiling(self) -> dict[str, float]:
        """Returns the seconds that compiling took so far, where it took more since the last logged point."""
        seconds = self.compile_seconds()
        if seconds <= self._compile_seconds_logged:
            return {}
        self._compile_seconds_logged = seconds
        return {"train/compile_seconds": seconds}

    def _judge_steps(self, trainer: Trainer) -> None:
        unsound = self._since_log.take_unsound_steps()
        trainer.state.num_skipped_steps += len(unsound)
        self.guard.judge_steps(unsound)


class _Sums:
    """What happened since the last logged point. Device tensors are kept and read together.

    Attributes:
        loss: of all processes, as far as it has been merged.
    """

    def __init__(self) -> None:
        self.loss = 0.0
        self.num_examples = 0
        self.num_target_tokens = 0
        self.num_all_target_tokens = 0
        self.num_real_tokens = 0
        self.num_computed_tokens = 0
        self._own_loss = 0.0
        self._unread: list[StepResult] = []
        self._unsound: list[tuple[int, str]] = []

    def add(self, result: StepResult) -> None:
        self.num_examples += result.num_examples
        self.num_all_target_tokens += result.num_target_tokens
        self.num_real_tokens += result.num_target_tokens + result.num_source_tokens
        self.num_computed_tokens += result.num_computed_tokens
        self._unread.append(result)

    def merge(self, sum_over_processes: Callable[[Sequence[float]], Sequence[float]]) -> None:
        """Moves the loss of this process's share into the common sum; called on every process."""
        self._read()
        (loss,) = sum_over_processes([self._own_loss])
        self.loss += loss
        self._own_loss = 0.0

    def flops(self, arithmetic: Arithmetic) -> float:
        """Returns the operations of all examples; the attention scores are those of examples of their mean length."""
        if not self.num_examples:
            return 0.0
        source_tokens = (self.num_real_tokens - self.num_all_target_tokens) / self.num_examples
        return self.num_examples * arithmetic.flops_of(source_tokens, self.num_all_target_tokens / self.num_examples)

    def take_unsound_steps(self) -> list[tuple[int, str]]:
        """Returns the steps that were not applied, each with the reason, once."""
        self._read()
        unsound, self._unsound = self._unsound, []
        return unsound

    def _read(self) -> None:
        if not self._unread:
            return
        losses = torch.stack([result.loss_sum for result in self._unread]).double().tolist()
        finite = torch.stack([result.is_finite for result in self._unread]).tolist()
        for result, loss, is_finite in zip(self._unread, losses, finite, strict=True):
            if is_finite:
                self._own_loss += loss
                self.num_target_tokens += result.num_target_tokens
            else:
                reason = "its gradient is not finite" if result.num_target_tokens else "its window has no target token"
                self._unsound.append((result.step, reason))
        self._unread = []

    def state_dict(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
