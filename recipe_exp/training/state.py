"""Where a run stands: integers that say everything about its position."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch


@dataclass
class TrainerState:
    """Where a run stands.

    Attributes:
        step: optimizer steps done.
        num_examples: examples seen, over all processes.
        num_target_tokens: target tokens learnt from, over all processes.
        num_skipped_steps: steps whose update was not applied, or was taken back by a rollback.
    """

    step: int = 0
    num_examples: int = 0
    num_target_tokens: int = 0
    num_skipped_steps: int = 0

    def state_dict(self) -> dict[str, Any]:
        """Returns the fields as plain data."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the fields back."""
        self.step = int(state["step"])
        self.num_examples = int(state["num_examples"])
        self.num_target_tokens = int(state["num_target_tokens"])
        self.num_skipped_steps = int(state.get("num_skipped_steps", 0))


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did. Tensors are scalars on the device; reading one makes the host wait for it.

    Attributes:
        step: steps done after it.
        loss_sum: summed cross-entropy of this process's share of the window.
        grad_norm: global 2-norm of the window's gradient before clipping.
        is_finite: whether the weights were updated: the gradient was finite, which that of a non-finite loss is not,
            and the window had a target token.
        learning_rate: of this update.
        num_examples: of the window, over all processes.
        num_target_tokens: of the window, over all processes.
        num_source_tokens: of the window, over all processes.
        num_computed_tokens: source and target positions that all processes computed, padding included.
    """

    step: int
    loss_sum: torch.Tensor
    grad_norm: torch.Tensor
    is_finite: torch.Tensor
    learning_rate: float
    num_examples: int
    num_target_tokens: int
    num_source_tokens: int
    num_computed_tokens: int
