"""The arithmetic of one window, and nothing else."""

from __future__ import annotations

import random
from contextlib import nullcontext

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer

from recipe_exp.config.training import TrainingConfig
from recipe_exp.data.loader import MicroBatch, Window
from recipe_exp.hardware.memory import out_of_memory_noticed
from recipe_exp.training.chunked_optimizers import ChunkedOptimizer, norm_in_chunks
from recipe_exp.training.optimizers import gated_step, set_learning_rate
from recipe_exp.training.schedules import Schedule
from recipe_exp.training.state import StepResult

_SEED_MODULUS = 2**63
# Parts dropout, and the rounding of updates, from the initial weights, which are drawn from the seed alone.
_DROPOUT_STREAM = 1
_ROUNDING_STREAM = 2
_CLIPPING_EPSILON = 1e-6


class TrainingStep:
    """One optimizer step: the sum of cross-entropy over the window's target tokens divided by their number.

    The division is by the whole window's count, over all micro-batches and processes, so how the window was cut does
    not matter. Every random number of a step is drawn from (seed, step, process): a resumed run draws what the
    uninterrupted one drew, and what happens between two steps changes nothing.

    Args:
        model: returns the summed cross-entropy of a micro-batch; prepared by the accelerator.
        optimizer: over the model's trainable weights.
        accelerator: places tensors, and sums gradients over processes.
        schedule: learning rate by step, counted from 0.
        max_grad_norm: clip the window's gradient to this global 2-norm; None does not.
        label_smoothing: share of the target distribution spread over the vocabulary.
        seed: of dropout.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        accelerator: Accelerator,
        schedule: Schedule,
        *,
        max_grad_norm: float | None,
        label_smoothing: float,
        seed: int,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.accelerator = accelerator
        self.schedule = schedule
        self.max_grad_norm = max_grad_norm
        self.label_smoothing = label_smoothing
        self.seed = seed
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def __call__(self, window: Window) -> StepResult:
        """Learns from one window and returns what happened.

        Raises:
            OutOfMemoryError: if the memory is full before the update. Weights and optimizer are as before, and the same
                window may be tried again in smaller micro-batches.
        """
        seed_everything(self.seed, _DROPOUT_STREAM, window.step, self.accelerator.process_index)
        if isinstance(self.optimizer, ChunkedOptimizer):
            # The same on every process, so that their weights stay equal.
            self.optimizer.seed_rounding(_seeds(self.seed, _ROUNDING_STREAM, window.step)[0])
        learning_rate = self.schedule(window.step)
        set_learning_rate(self.optimizer, learning_rate)
        self.optimizer.zero_grad(set_to_none=True)
        loss_sum, grad_norm, is_finite = self._learn(window)
        # What is evaluated between two steps gets the room of the gradients, but for what `kept_memory` holds on a CPU.
        self.optimizer.zero_grad(set_to_none=True)
        return StepResult(
            step=window.step + 1,
            loss_sum=loss_sum,
            grad_norm=grad_norm,
            is_finite=is_finite,
            learning_rate=learning_rate,
            num_examples=window.num_examples,
            num_target_tokens=window.num_target_tokens,
            num_source_tokens=window.num_source_tokens,
            num_computed_tokens=window.num_computed_tokens,
        )

    def _learn(self, window: Window) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Changes the weights, and returns the summed loss, the gradient's norm and whether they were changed."""
        with out_of_memory_noticed():
            loss_sum = self._accumulate_gradients(window)
            grad_norm = _total_norm([parameter.grad for parameter in self._parameters if parameter.grad is not None])
        # An update without a target token would still move the weights, by their momentum and decay.
        is_finite = torch.isfinite(grad_norm) & (window.num_target_tokens > 0)
        gated_step(self.optimizer, is_finite, self._divisor(grad_norm))
        return loss_sum, grad_norm, is_finite

    def _accumulate_gradients(self, window: Window) -> torch.Tensor:
        """Runs forward and backward over this process's micro-batches; gradients are summed over processes once."""
        # Data parallelism averages gradients over processes; the factor makes it a sum again.
        scale = self.accelerator.num_processes / max(window.num_target_tokens, 1)
        total = torch.zeros((), device=self.accelerator.device)
        last = len(window.micro_batches) - 1
        for position, micro_batch in enumerate(window.micro_batches):
            is_last = position == last
            with nullcontext() if is_last else self.accelerator.no_sync(self.model):
                loss = self._loss(micro_batch)
                self.accelerator.backward(loss * scale)
            total += loss.detach()
        return total

    def _loss(self, micro_batch: MicroBatch) -> torch.Tensor:
        loss: torch.Tensor = self.model(micro_batch.to(self.accelerator.device), label_smoothing=self.label_smoothing)
        # A process without work of its own still takes part in the exchange of gradients.
        return loss * 0.0 if micro_batch.is_dummy else loss

    def _divisor(self, grad_norm: torch.Tensor) -> torch.Tensor | None:
        """Returns what the gradient is divided by so that its norm is in bounds; None where it has none."""
        if self.max_grad_norm is None:
            return None
        # As in PyTorch's clipping, which adds it for a norm of zero.
        return ((grad_norm + _CLIPPING_EPSILON) / self.max_grad_norm).clamp(min=1.0)


class InBackwardStep(TrainingStep):
    """The same step where each weight is updated within the backward pass, as soon as its gradient is there.

    A gradient is let go of right after, so only those of a layer or so are there at the same time. Nothing may wait for
    the whole gradient then: it is not clipped, a window is one micro-batch on one process, and of a gradient that is
    not finite only the weights that it would reach are left as they are. The norm is that of all gradients together.
    Out of memory, some weights may be updated and others not.

    Args:
        model: as above, tuned whole.
        optimizer: updates one weight at a time.
        accelerator: of a single process.
        schedule: learning rate by step, counted from 0.
        label_smoothing: share of the target distribution spread over the vocabulary.
        seed: of dropout and rounding.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: ChunkedOptimizer,
        accelerator: Accelerator,
        schedule: Schedule,
        *,
        label_smoothing: float,
        seed: int,
    ) -> None:
        super().__init__(
            model, optimizer, accelerator, schedule, max_grad_norm=None, label_smoothing=label_smoothing, seed=seed
        )
        self._chunked = optimizer
        self._is_sound = torch.ones((), dtype=torch.bool)
        self._norms: list[torch.Tensor] = []
        for parameter in self._parameters:
            parameter.register_post_accumulate_grad_hook(self._update)  # type: ignore[no-untyped-call]

    def _learn(self, window: Window) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if len(window.micro_batches) != 1:
            raise ValueError(f"step {window.step}: the window is {len(window.micro_batches)} micro-batches, not one")
        self._norms.clear()
        with out_of_memory_noticed():
            loss = self._loss(window.micro_batches[0])
            self._is_sound = torch.isfinite(loss.detach()) & (window.num_target_tokens > 0)
            self.accelerator.backward(loss / max(window.num_target_tokens, 1))
        grad_norm = torch.linalg.vector_norm(torch.stack(self._norms))
        return loss.detach(), grad_norm, torch.isfinite(grad_norm) & self._is_sound

    def _update(self, parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        norm = norm_in_chunks(parameter.grad)
        self._norms.append(norm)
        self._chunked.update(parameter, self._is_sound & torch.isfinite(norm))
        parameter.grad = None


def build_step(
    model: nn.Module,
    optimizer: Optimizer,
    accelerator: Accelerator,
    schedule: Schedule,
    training: TrainingConfig,
    seed: int,
) -> TrainingStep:
    """Returns the step that the configuration asks for; the arguments are those of the steps."""
    if training.update_in_backward:
        assert isinstance(optimizer, ChunkedOptimizer)
        return InBackwardStep(
            model, optimizer, accelerator, schedule, label_smoothing=training.label_smoothing, seed=seed
        )
    return TrainingStep(
        model,
        optimizer,
        accelerator,
        schedule,
        max_grad_norm=training.max_grad_norm,
        label_smoothing=training.label_smoothing,
        seed=seed,
    )


def _total_norm(gradients: list[torch.Tensor]) -> torch.Tensor:
    """Returns the 2-norm of all gradients together, a scalar."""
    if gradients and gradients[0].device.type == "cpu":
        norm: torch.Tensor = torch.linalg.vector_norm(torch.stack([norm_in_chunks(gradient) for gradient in gradients]))
        return norm
    return nn.utils.get_total_norm(gradients)


def seed_everything(seed: int, *position: int) -> None:
    """Seeds Python, NumPy and PyTorch from a seed and a position such as (step, process)."""
    words = _seeds(seed, *position)
    random.seed(words[0])
    np.random.seed(words[0] % 2**32)
    torch.manual_seed(words[1] % _SEED_MODULUS)


def _seeds(seed: int, *position: int) -> tuple[int, int]:
    words = np.random.SeedSequence([seed % _SEED_MODULUS, *position]).generate_state(2, np.uint64)
    return int(words[0]), int(words[1])
