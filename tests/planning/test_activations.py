"""The closed formula against the tensors that autograd really keeps."""

from __future__ import annotations

import itertools

import pytest
import torch

from recipe_exp.config.training import LoraConfig
from recipe_exp.models.adapters import add_lora
from recipe_exp.models.load import build_model
from recipe_exp.models.sequence_loss import SequenceLoss
from recipe_exp.planning.activations import Batch, SavedActivations

BATCH = Batch(8, 24, 40)
CASES = [
    *itertools.product([None, "attention_qv"], ["eager", "sdpa"], [False, True], [0.0, 0.1], [False, True]),
    *itertools.product(["all_linear"], ["eager"], [False], [0.0, 0.1], [False, True]),
]


def saved_bytes(model, lora, *, attention, is_bf16):
    """Bytes of the distinct storages that a forward pass saves, weights, their copies and logits left out."""
    dtype = torch.bfloat16 if is_bf16 and lora else torch.float32
    network = build_model(model, dtype=dtype, attention=attention)
    if lora:
        network = add_lora(network, lora, base="odd")
        network.train()
    sizes = {tuple(p.shape) for p in network.parameters()}
    sizes |= {size[::-1] for size in sizes}
    storages = {}

    def keep(tensor):
        if tuple(tensor.shape) not in sizes:
            storages[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    sources = torch.full((BATCH.num_examples, BATCH.source_tokens), 7)
    mask = torch.ones_like(sources)
    mask[0, -3:] = 0
    labels = torch.full((BATCH.num_examples, BATCH.target_tokens), 7)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=is_bf16),
    ):
        SequenceLoss(network)(sources, mask, labels)
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize(("targets", "attention", "is_checkpointed", "dropout", "is_bf16"), CASES)
def test_formula_is_what_autograd_keeps(odd_model, targets, attention, is_checkpointed, dropout, is_bf16):
    model = odd_model(dropout=dropout, gradient_checkpointing=is_checkpointed)
    lora = LoraConfig(rank=3, targets=targets) if targets else None
    measured = saved_bytes(model, lora, attention=attention, is_bf16=is_bf16)
    formula = SavedActivations(model, lora, is_bf16=is_bf16, attention=attention, device="cpu")
    estimated = formula.checkpointed(BATCH) if is_checkpointed else formula.whole(BATCH)
    # Whole networks in fp32 are exact but for a few masks; PyTorch's unfused attention in bf16 keeps more than eager.
    bound = 0.01 if lora is None and not is_checkpointed and not is_bf16 else 0.12
    if is_bf16 and attention == "sdpa":
        bound = 0.2
    assert estimated == pytest.approx(measured, rel=bound)


def test_fused_attention_on_a_gpu_keeps_less_than_eager(odd_model):
    sizes = {
        attention: SavedActivations(odd_model(), None, is_bf16=True, attention=attention, device="cuda").whole(
            Batch(8, 64, 256)
        )
        for attention in ("eager", "sdpa")
    }
    assert sizes["sdpa"] < 0.8 * sizes["eager"]


def test_dropout_masks_take_one_byte_on_a_gpu(odd_model):
    def masks(device):
        with_dropout, without = (
            SavedActivations(odd_model(dropout=p), None, is_bf16=False, attention="sdpa", device=device).whole(BATCH)
            for p in (0.1, 0.0)
        )
        return with_dropout - without

    shape = odd_model().shape
    per_token = {
        "source": (2 + 2 * shape.num_layers) * shape.d_model + shape.num_layers * shape.d_ff,
        "target": (2 + 3 * shape.num_decoder_layers) * shape.d_model + shape.num_decoder_layers * shape.d_ff,
    }
    expected = BATCH.all_source_tokens * per_token["source"] + BATCH.all_target_tokens * per_token["target"]
    assert masks("cuda") == expected
    assert masks("cpu") > 4 * expected
