"""Arithmetic against counts by hand, by PyTorch's own counter, and by stated figures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from recipe_exp.config.training import LoraConfig, NoAdapterConfig
from recipe_exp.data.loader import join_texts
from recipe_exp.models.adapters import add_lora
from recipe_exp.models.load import build_model
from recipe_exp.models.sequence_loss import SequenceLoss
from recipe_exp.planning.flops import ASSUMED_UTILISATION, forward_flops, seconds_per_step, training_flops

NUM_EXAMPLES, SOURCE, TARGET = 2, 24, 40


@pytest.mark.parametrize(("size", "gigaflops"), [("base", 39.6), ("large", 127), ("xl", 464), ("xxl", 1814)])
def test_forward_of_a_typical_recipe(composed, size, gigaflops):
    shape = composed(f"model=flan_t5_{size}").model.shape
    assert forward_flops(shape, 25, 138).total / 1e9 == pytest.approx(gigaflops, rel=0.03)


def counted(model, lora=None):
    network = build_model(model, dtype=torch.float32, attention="eager")
    loss = SequenceLoss(add_lora(network, lora, base="odd") if lora else network)
    batch = join_texts(*([np.full(length, 7)] * NUM_EXAMPLES for length in (SOURCE, TARGET)))
    with FlopCounterMode(display=False) as counter:
        loss(batch).backward()
    return counter.get_total_flops() / NUM_EXAMPLES


@pytest.mark.parametrize("is_checkpointed", [False, True])
@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4), LoraConfig(rank=4, targets="all_linear")])
def test_training_is_what_pytorch_counts(odd_model, lora, is_checkpointed):
    model = odd_model(gradient_checkpointing=is_checkpointed)
    estimated = training_flops(
        model.shape,
        lora or NoAdapterConfig(),
        source_tokens=SOURCE,
        target_tokens=TARGET,
        gradient_checkpointing=is_checkpointed,
    )
    # LoRA's first layer needs no gradient of its input, which counts in a network of five layers.
    assert estimated == pytest.approx(counted(model, lora), rel=0.15 if lora else 0.03)


def test_seconds_are_arithmetic_over_the_reached_peak():
    seconds = seconds_per_step(3e12, batch_size=32, num_processes=2, peak_tflops=100, precision="bf16")
    assert seconds == pytest.approx(32 * 3e12 / (2 * 100e12 * ASSUMED_UTILISATION))


def test_time_is_unknown_without_a_peak_for_the_precision():
    known = {"batch_size": 1, "num_processes": 1}
    assert seconds_per_step(1e12, peak_tflops=None, precision="bf16", **known) is None
    assert seconds_per_step(1e12, peak_tflops=100, precision="fp32", **known) is None
    assert seconds_per_step(1e12, peak_tflops=100, precision="tf32", **known) == pytest.approx(
        2 * seconds_per_step(1e12, peak_tflops=100, precision="bf16", **known)
    )
