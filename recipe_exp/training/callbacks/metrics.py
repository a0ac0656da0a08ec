"""Training metrics: read from the device every N steps, and the guard that looks for non-finite updates there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from recipe_exp.errors import TrainingError
from recipe_exp.training.callbacks.callback import Callback
from recipe_exp.training.state import StepResult

if TYPE_CHECKING:
    from recipe_exp.training.trainer import Trainer


class MetricsCallback(Callback):
    """Averages the loss over all target tokens between two logged points and logs it with rates and throughput.

    A step whose gradient was not finite did not change the weights. It is noticed here, when the numbers are read
    anyway, so no step waits for the device.

    Args:
        every_n_steps: steps between two logged points.
        on_non_finite: `stop` raises, `skip_step` counts.
        sum_over_processes: returns the elementwise sum of a list of numbers over all processes.
    """

    priority = 90

    def __init__(
        self, every_n_steps: int, on_non_finite: str, sum_over_processes: Callable[[Sequence[float]], Sequence[float]]
    ) -> None:
        self.every_n_steps = every_n_steps
        self.on_non_finite = on_non_finite
        self.sum_over_processes = sum_over_processes
        self.num_skipped_steps = 0
        self._since_log = _Sums()
        self._seconds_before = 0.0
        self._clock_at_log = 0.0

    def on_step_end(self, trainer: Trainer, result: StepResult) -> None:
        """Adds the step up, and logs when it is time."""
        self._since_log.add(result)
        if result.step % self.every_n_steps == 0 or result.step == trainer.length.total_steps:
            self._log(trainer, result)

    def on_train_begin(self, trainer: Trainer) -> None:
        """Counts seconds from here, and those that a resumed interval took before."""
        self._clock_at_log = -self._seconds_before

    def on_checkpoint(self, trainer: Trainer) -> None:
        """Refuses to save a state that no check has looked at, and makes the sums those of all processes."""
        self._raise_if_non_finite()
        self._since_log.merge(self.sum_over_processes)
        self._seconds_before = trainer.clock.seconds - self._clock_at_log

    def state_dict(self) -> dict[str, Any]:
        """The sums since the last logged point, so that a resumed run logs the same numbers."""
        return {
            "num_skipped_steps": self.num_skipped_steps,
            "since_log": self._since_log.state_dict(),
            "seconds": self._seconds_before,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the sums back."""
        self.num_skipped_steps = int(state["num_skipped_steps"])
        self._since_log = _Sums()
        self._since_log.load_state_dict(state["since_log"])
        self._seconds_before = float(state["seconds"])

    def _log(self, trainer: Trainer, result: StepResult) -> None:
        self._raise_if_non_finite()
        sums = self._since_log
        sums.merge(self.sum_over_processes)
        seconds = max(trainer.clock.seconds - self._clock_at_log, 1e-9)
        metrics = {
            "train/loss": sums.loss / max(sums.num_target_tokens, 1),
            "train/learning_rate": result.learning_rate,
            "train/grad_norm": float(result.grad_norm),
            "train/epoch": trainer.epoch,
            "train/target_tokens_per_second": sums.num_all_target_tokens / seconds,
            "train/recipes_per_second": sums.num_examples / seconds,
            "train/padding_share": 1.0 - sums.num_real_tokens / max(sums.num_padded_tokens, 1),
        }
        if self.num_skipped_steps:
            metrics["train/skipped_steps"] = float(self.num_skipped_steps)
        self._since_log = _Sums()
        self._clock_at_log, self._seconds_before = trainer.clock.seconds, 0.0
        trainer.log(metrics)

    def _raise_if_non_finite(self) -> None:
        steps = self._since_log.non_finite_steps()
        self.num_skipped_steps += len(steps)
        if steps and self.on_non_finite == "stop":
            raise TrainingError(
                f"step {steps[0]}: loss or gradient is not finite; the weights were not updated with it. "
                "Lower training.learning_rate, check the data, or skip such steps with training.on_non_finite=skip_step"
            )
        self._since_log.forget_non_finite()


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
        self.num_padded_tokens = 0
        self._own_loss = 0.0
        self._unread: list[StepResult] = []
        self._non_finite: list[int] = []

    def add(self, result: StepResult) -> None:
        self.num_examples += result.num_examples
        self.num_all_target_tokens += result.num_target_tokens
        self.num_real_tokens += result.num_target_tokens + result.num_source_tokens
        self.num_padded_tokens += result.num_padded_tokens
        self._unread.append(result)

    def merge(self, sum_over_processes: Callable[[Sequence[float]], Sequence[float]]) -> None:
        """Moves the loss of this process's share into the common sum; called on every process."""
        self._read()
        (loss,) = sum_over_processes([self._own_loss])
        self.loss += loss
        self._own_loss = 0.0

    def non_finite_steps(self) -> list[int]:
        self._read()
        return self._non_finite

    def forget_non_finite(self) -> None:
        self._non_finite = []

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
                self._non_finite.append(result.step)
        self._unread = []

    def state_dict(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
