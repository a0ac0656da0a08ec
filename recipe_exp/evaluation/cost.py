"""What evaluations take of a run's time, and which setting brings them under a tenth."""

from __future__ import annotations

import math
from dataclasses import dataclass

TARGET_SHARE = 0.1


@dataclass(frozen=True)
class EvaluationCost:
    """What one evaluation took.

    Attributes:
        loss_seconds: for the loss of the examples.
        generation_seconds: for writing and scoring recipes.
        num_examples: whose loss was measured.
        num_generated: recipes that were written.
    """

    loss_seconds: float
    generation_seconds: float
    num_examples: int
    num_generated: int

    @property
    def seconds(self) -> float:
        """Of the whole evaluation."""
        return self.loss_seconds + self.generation_seconds


def describe_cost(cost: EvaluationCost, *, step_seconds: float, every_n_steps: int) -> str:
    """Returns one line: the share of a run's time that evaluations take, and what brings a large one under a tenth.

    Args:
        cost: of one evaluation.
        step_seconds: of one step of training.
        every_n_steps: steps between two evaluations.
    """
    between = step_seconds * every_n_steps
    share = cost.seconds / (cost.seconds + between)
    line = f"evaluation takes {_seconds(cost.seconds)} every {every_n_steps:,} steps, {share:.0%} of the run's time"
    if share <= TARGET_SHARE or step_seconds <= 0:
        return line
    steps = math.ceil(cost.seconds * (1 - TARGET_SHARE) / TARGET_SHARE / step_seconds)
    choices = [f"evaluation.every_n_steps={steps}", *_fewer(cost, between * TARGET_SHARE / (1 - TARGET_SHARE))]
    return f"{line}; {' or '.join(choices)} brings it under {TARGET_SHARE:.0%}"


def _fewer(cost: EvaluationCost, allowed_seconds: float) -> list[str]:
    """Returns the setting that makes the larger part small enough, if a useful number is left of it."""
    if cost.generation_seconds >= cost.loss_seconds:
        key, number, part = "max_generated_examples", cost.num_generated, cost.generation_seconds
    else:
        key, number, part = "max_examples", cost.num_examples, cost.loss_seconds
    left = allowed_seconds - (cost.seconds - part)
    count = math.floor(number * left / part) if part > 0 else 0
    return [f"evaluation.{key}={count}"] if count >= 1 else []


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.1f} min"
