"""Measuring what compiling saves leaves no trace in the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from recipe_exp.data.loader import MicroBatch
from recipe_exp.hardware.accelerator import create_accelerator
from recipe_exp.models.sequence_loss import SequenceLoss
from recipe_exp.models.unpadded.compiling import UNCOMPILED, Kernels
from recipe_exp.training.callbacks.compiling import compare_kernels

Builder = Callable[..., Any]


@pytest.mark.long
def test_both_are_timed_and_nothing_is_changed(built: Builder, batch: MicroBatch, compiled: Kernels) -> None:
    loss = SequenceLoss(built(dropout=0.1), compiled)
    accelerator = create_accelerator(device="cpu", precision="fp32", num_threads=1)
    before = [weight.detach().clone() for weight in loss.parameters()]
    random = torch.random.get_rng_state()
    seconds = compare_kernels(loss, batch, accelerator)
    assert seconds is not None
    assert min(seconds) > 0
    assert torch.equal(torch.random.get_rng_state(), random)
    assert all(weight.grad is None for weight in loss.parameters())
    assert all(torch.equal(weight, then) for weight, then in zip(loss.parameters(), before, strict=True))


def test_what_is_not_compiled_is_not_timed(built: Builder, batch: MicroBatch) -> None:
    accelerator = create_accelerator(device="cpu", precision="fp32", num_threads=1)
    assert compare_kernels(SequenceLoss(built(), UNCOMPILED), batch, accelerator) is None
