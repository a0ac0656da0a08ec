"""Where a run stands: integers that say everything about its position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class TrainerState:
    """Where a run stands.

    Attributes:
        step: optimizer steps done.
        num_examples: examples seen, over all processes.
        num_target_tokens: target tokens learnt from, over all processes.
    """

    step: int = 0
    num_examples: int = 0
    num_target_tokens: int = 0

    def state_dict(self) -> dict[str, Any]:
        """Returns the fields as plain data."""
        return {"step": self.step, "num_examples": self.num_examples, "num_target_tokens": self.num_target_tokens}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the fields back."""
        self.step = int(state["step"])
        self.num_examples = int(state["num_examples"])
        self.num_target_tokens = int(state["num_target_tokens"])


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did. Tensors are scalars on the device; reading one makes the host wait for it.

    Attributes:
        step: steps done after it.
        loss_sum: summed cross-entropy of this process's share of the window.
        grad_norm: global 2-norm of the window's gradient before clipping.
        is_finite: whether the gradient was finite, so that the weights were updated; that of a non-finite loss is not.
        learning_rate: of this update.
        num_examples: of the window, over all processes.
        num_target_tokens: of the window, over all processes.
        num_source_tokens: of the window, over all processes.
        num_padded_tokens: source and target positions that all processes computed, padding included.
    """

    step: int
    loss_sum: torch.Tensor
    grad_norm: torch.Tensor
    is_finite: torch.Tensor
    learning_rate: float
    num_examples: int
    num_target_tokens: int
    num_source_tokens: int
    num_padded_tokens: int
