"""What is done when a run's numbers go wrong: steps that could not be applied, and a loss that explodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from recipe_exp.errors import TrainingError

Policy = Literal["stop", "skip_step", "rollback"]

_MAX_NAMED_STEPS = 3
_REMEDIES = "lower training.learning_rate, or look at these recipes"


class RollbackError(Exception):
    """The run is to go back to its last good checkpoint and to pass over the windows since then."""


class Guard:
    """Judges what was read from the device, and stops, reports or asks for a rollback.

    A step is unsound if its gradient is not finite or its window holds no target token; such a step never changes the
    weights. A loss explodes if its mean between two logged points is not finite or lies more than `max_loss_increase`
    above the lowest such mean so far; by then the weights have followed it, so it cannot be skipped.

    Args:
        policy: `stop` ends the run with an error, `skip_step` goes on without unsound steps, `rollback` goes back.
        max_loss_increase: nats a target token; None lets the loss rise.
        describe_window: names the recipes that a step, counted from 1, learnt from.
        last_checkpoint: names the last good checkpoint, None without one.
        report: shows one line to the user.
    """

    def __init__(
        self,
        policy: Policy,
        max_loss_increase: float | None,
        *,
        describe_window: Callable[[int], str],
        last_checkpoint: Callable[[], str | None],
        report: Callable[[str], None],
    ) -> None:
        self.policy = policy
        self.max_loss_increase = max_loss_increase
        self.describe_window = describe_window
        self.last_checkpoint = last_checkpoint
        self.report = report
        self.lowest_loss = math.inf

    def judge_steps(self, unsound: Sequence[tuple[int, str]]) -> None:
        """Acts on steps that were not applied, each with the reason.

        Raises:
            TrainingError: if the run is to stop.
            RollbackError: if it is to go back.
        """
        if not unsound:
            return
        step, reason = unsound[0]
        others = [str(other) for other, _ in unsound[1 : 1 + _MAX_NAMED_STEPS]]
        also = f" (so in steps {', '.join(others)}{'...' if len(unsound) > 1 + len(others) else ''})" if others else ""
        line = f"step {step}: {reason}{also}; the weights were not updated with it. {self._place(step)}"
        if self.policy == "skip_step":
            self.report(f"warning: {line}; going on without it")
        elif self.policy == "rollback":
            raise RollbackError(line)
        else:
            raise TrainingError(f"{line}; {_REMEDIES}, or go on with training.on_non_finite=skip_step or rollback")

    def judge_loss(self, step: int, loss: float) -> None:
        """Acts on the mean loss of the steps up to `step` since the last logged one.

        Raises:
            TrainingError: if it exploded and the run is to stop.
            RollbackError: if it exploded and the run is to go back.
        """
        limit = self.lowest_loss + (math.inf if self.max_loss_increase is None else self.max_loss_increase)
        if math.isfinite(loss) and loss <= limit:
            self.lowest_loss = min(self.lowest_loss, loss)
            return
        line = f"step {step}: the loss exploded to {loss:.4g} from {self.lowest_loss:.4g}. {self._place(step)}"
        if self.policy == "rollback":
            raise RollbackError(line)
        raise TrainingError(
            f"{line}; {_REMEDIES}, go back by itself with training.on_non_finite=rollback, "
            "or allow it with training.max_loss_increase"
        )

    def state_dict(self) -> dict[str, Any]:
        """The lowest loss; None before the first."""
        return {"lowest_loss": self.lowest_loss if math.isfinite(self.lowest_loss) else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes it back."""
        self.lowest_loss = math.inf if state["lowest_loss"] is None else float(state["lowest_loss"])

    def _place(self, step: int) -> str:
        checkpoint = self.last_checkpoint()
        good = f"the last good checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint yet"
        return f"It learnt from {self.describe_window(step)}; {good}"
