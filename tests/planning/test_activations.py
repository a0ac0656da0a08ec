"""The closed formula against the tensors that autograd really keeps."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from recipe_exp.config.training import LoraConfig
from recipe_exp.data.loader import join_texts
from recipe_exp.models.adapters import add_lora
from recipe_exp.models.load import build_model
from recipe_exp.models.sequence_loss import SequenceLoss
from recipe_exp.models.unpadded import segments
from recipe_exp.planning import activations
from recipe_exp.planning.activations import Batch, SavedActivations
from recipe_exp.planning.lengths import batch_of

BATCH = Batch(8, 24, 40)
CASES = [
    *itertools.product([None, "attention_qv"], [False, True], [0.0, 0.1], [False, True]),
    *itertools.product(["all_linear"], [False], [0.0, 0.1], [False, True]),
]


def saved_bytes(loss, sources, targets, *, is_bf16):
    """Bytes of the distinct storages that a forward pass saves, weights, their copies and logits left out."""
    sizes = {tuple(parameter.shape) for parameter in loss.parameters()}
    sizes |= {size[::-1] for size in sizes}
    storages = {}

    def keep(tensor):
        if tuple(tensor.shape) not in sizes and tensor.is_floating_point():
            storages[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    batch = join_texts([np.full(length, 7) for length in sources], [np.full(length, 7) for length in targets])
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=is_bf16),
    ):
        loss(batch)
    return sum(storage.nbytes() for storage in storages.values())


def built(model, lora, *, is_bf16, attention="eager"):
    network = build_model(model, dtype=torch.bfloat16 if is_bf16 and lora else torch.float32, attention=attention)
    return SequenceLoss(add_lora(network, lora, base="odd") if lora else network).train()


def formula(model, lora, batch, *, is_bf16):
    saved = SavedActivations(model, lora, is_bf16=is_bf16, device="cpu")
    return saved.checkpointed(batch) if model.gradient_checkpointing else saved.whole(batch)


@pytest.mark.parametrize(("targets", "is_checkpointed", "dropout", "is_bf16"), CASES)
def test_formula_is_what_autograd_keeps(odd_model, targets, is_checkpointed, dropout, is_bf16):
    model = odd_model(dropout=dropout, gradient_checkpointing=is_checkpointed)
    lora = LoraConfig(rank=3, targets=targets) if targets else None
    lengths = ([BATCH.source_tokens] * BATCH.num_examples, [BATCH.target_tokens] * BATCH.num_examples)
    measured = saved_bytes(built(model, lora, is_bf16=is_bf16), *lengths, is_bf16=is_bf16)
    # The first norm of a frozen network reads what needs no gradient, and keeps nothing.
    bound = 0.06 if lora is None else 0.12
    assert formula(model, lora, BATCH, is_bf16=is_bf16) == pytest.approx(measured, rel=bound)


@pytest.mark.usefixtures("flex_trains_here")
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("batch", [Batch(8, 32, 48), Batch(4, 96, 160)], ids=["short", "long"])
def test_flex_attention_keeps_no_pairs_but_keys_and_values_twice(odd_model, batch, dropout):
    # Places of keys are a multiple of 128 in these.
    model = odd_model(dropout=dropout)
    lengths = ([batch.source_tokens] * batch.num_examples, [batch.target_tokens] * batch.num_examples)
    loss = built(model, None, is_bf16=False, attention="flex")
    measured = saved_bytes(loss, *lengths, is_bf16=False)
    saved = SavedActivations(model, None, is_bf16=False, device="cuda", attention="flex")
    assert saved.whole(batch) == pytest.approx(measured, rel=0.02)


def test_the_formula_counts_places_of_keys_as_attention_does():
    for name in ("KEY_MULTIPLE", "MAX_PARTS", "BUCKET_COST"):
        assert getattr(activations, name) == getattr(segments, name)


def test_examples_of_different_lengths_count_with_their_own_tokens_and_pairs(odd_model):
    sources, targets = np.array([24, 54, 180, 186, 72]), np.array([480, 60, 72, 450, 240])
    batch = batch_of(sources, targets)
    assert (batch.all_source_tokens, batch.all_target_tokens) == (516, 1302)
    assert batch.pairs(batch.target_tokens, batch.target_tokens) == pytest.approx((targets**2).sum())
    model = odd_model(dropout=0.0)
    measured = saved_bytes(built(model, None, is_bf16=False), sources, targets, is_bf16=False)
    assert formula(model, None, batch, is_bf16=False) == pytest.approx(measured, rel=0.1)


def test_what_is_compiled_holds_nothing_between_its_steps(odd_model):
    eager, compiled = (
        SavedActivations(odd_model(), None, is_bf16=True, device="cuda", is_compiled=is_compiled)
        for is_compiled in (False, True)
    )
    assert eager.whole(BATCH) == compiled.whole(BATCH)
    assert compiled.backward_of_decoder_layer(BATCH) < 0.3 * eager.backward_of_decoder_layer(BATCH)
