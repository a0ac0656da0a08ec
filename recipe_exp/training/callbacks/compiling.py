"""What compiling saves, measured once: the same forward and backward pass with compiled kernels and without."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator

from recipe_exp.data.loader import MicroBatch
from recipe_exp.hardware.memory import OutOfMemoryError, out_of_memory_noticed, release_memory
from recipe_exp.models.sequence_loss import SequenceLoss
from recipe_exp.models.unpadded.compiling import UNCOMPILED
from recipe_exp.training.callbacks.callback import Callback
from recipe_exp.training.state import StepResult

if TYPE_CHECKING:
    from recipe_exp.training.trainer import Trainer

STEPS_BEFORE = 3
"""Steps that come first; by then what they need has been compiled."""

_REPETITIONS = 2


class CompileSavingCallback(Callback):
    """Logs once how many times as fast forward and backward pass are for being compiled: `train/compile_speedup`.

    Args:
        measure: returns the seconds without and with compiled kernels; None where that could not be measured.
        compile_seconds: returns how long compiling took so far.
        report: shows a line to the user.
    """

    def __init__(
        self,
        measure: Callable[[], tuple[float, float] | None],
        compile_seconds: Callable[[], float],
        report: Callable[[str], None],
    ) -> None:
        self.measure = measure
        self.compile_seconds = compile_seconds
        self.report = report
        self._num_steps = 0

    def on_step_end(self, trainer: Trainer, result: StepResult) -> None:
        """Measures after the first few steps of this execution."""
        self._num_steps += 1
        if self._num_steps != STEPS_BEFORE:
            return
        with trainer.clock.paused():
            seconds = self.measure()
        if seconds is not None:
            uncompiled, compiled = seconds
            trainer.log({"train/compile_speedup": uncompiled / compiled})
            self.report(
                f"compiled in {self.compile_seconds():.1f} s: forward and backward pass take "
                f"{compiled / uncompiled:.0%} of the time that they take uncompiled"
            )


def compare_kernels(loss: SequenceLoss, batch: MicroBatch, accelerator: Accelerator) -> tuple[float, float] | None:
    """Returns the seconds of a forward and backward pass without compiled kernels and with them, the least of two each.

    Gradients are thrown away, and random numbers are as they were. None where the kernels are not compiled, or where
    the memory is too small for the pass without them.

    Args:
        loss: with compiled kernels.
        batch: of recipes.
        accelerator: of the run.
    """
    if not loss.kernels.is_compiled:
        return None
    on_device = batch.to(accelerator.device)
    arms = (SequenceLoss(loss.network, UNCOMPILED), loss)
    taken: list[list[float]] = [[], []]
    devices = [accelerator.device] if accelerator.device.type == "cuda" else []
    with suppress(OutOfMemoryError), torch.random.fork_rng(devices=devices), out_of_memory_noticed():
        for _ in range(_REPETITIONS):
            for arm, seconds in zip(arms, taken, strict=True):
                seconds.append(_seconds_of_pass(arm, on_device, accelerator))
        return min(taken[0]), min(taken[1])
    release_memory()
    return None


def _seconds_of_pass(loss: SequenceLoss, batch: MicroBatch, accelerator: Accelerator) -> float:
    weights = [weight for weight in loss.parameters() if weight.requires_grad]
    started = time.perf_counter()
    with accelerator.autocast():
        value = loss(batch)
    torch.autograd.grad(value, weights, allow_unused=True)
    if accelerator.device.type == "cuda":
        torch.cuda.synchronize(accelerator.device)
    return time.perf_counter() - started
