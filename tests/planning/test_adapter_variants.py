"""What the plan says of every variant of an adapter, against the real networks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from recipe_exp.config.training import LoraConfig
from recipe_exp.data.loader import join_texts
from recipe_exp.models.adapters import add_lora
from recipe_exp.models.finetuned import build_trainable, count_parameters, tuned_state
from recipe_exp.models.load import build_model
from recipe_exp.models.sequence_loss import SequenceLoss
from recipe_exp.planning.activations import Batch, SavedActivations
from recipe_exp.planning.held import checkpoint_bytes, held
from recipe_exp.planning.parameters import count_lora_parameters

BATCH = Batch(8, 24, 40)
VARIANTS = {
    "rslora": LoraConfig(rank=3, rslora=True),
    "dora": LoraConfig(rank=3, dora=True, targets="all_linear", dropout=0.0),
    "pissa": LoraConfig(rank=3, init="pissa", targets="all_linear", dropout=0.0),
    "pissa with dora": LoraConfig(rank=3, init="pissa", dora=True, dropout=0.0),
    "names": LoraConfig(rank=3, targets=("EncDecAttention.q", "wo", "decoder.block.1.layer.0.SelfAttention.k")),
}


def build(model, training_config, lora, tmp_path, precision="fp32"):
    training = training_config(adapter=lora)
    network = build_trainable(model, training, precision=precision, attention="eager", base_folder=tmp_path / "base")
    return training, network


@pytest.mark.parametrize("lora", VARIANTS.values(), ids=VARIANTS)
def test_what_is_tuned_and_stored_is_counted(odd_model, training_config, tmp_path, lora):
    training, network = build(odd_model(), training_config, lora, tmp_path)
    tuned = count_parameters(network)[0]
    assert count_lora_parameters(odd_model().shape, lora) == tuned
    stored = sum(tensor.nbytes for tensor in tuned_state(network).values())
    assert checkpoint_bytes(odd_model(), training) == stored + 8 * tuned


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_base_in_4_bits_has_its_real_size(odd_model, training_config, tmp_path, precision):
    pytest.importorskip("bitsandbytes")
    # Whole blocks of scales, so that the formula's share of one is what is there.
    shape = odd_model().shape.model_copy(update={"d_model": 256, "d_kv": 64, "num_heads": 4, "d_ff": 512})
    model = odd_model().model_copy(update={"shape": shape})
    lora = LoraConfig(rank=3, targets="all_linear", quantization="nf4")
    training, network = build(model, training_config, lora, tmp_path, precision)
    real = sum(parameter.nbytes for parameter in network.parameters())
    for parameter in network.parameters():
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            real += state.absmax.nbytes + state.state2.absmax.nbytes
    assert held(model, training, is_bf16=precision == "bf16").weights == pytest.approx(real, rel=1e-3)


@pytest.mark.parametrize(
    ("targets", "is_bf16", "dropout", "is_checkpointed"),
    itertools.product(["attention_qv", "all_linear"], [False, True], [0.0, 0.05], [False, True]),
)
def test_dora_keeps_what_the_formula_says(odd_model, targets, is_bf16, dropout, is_checkpointed):
    model = odd_model(dropout=0.1, gradient_checkpointing=is_checkpointed)
    lora = LoraConfig(rank=3, targets=targets, dora=True, dropout=dropout)
    network = build_model(model, dtype=torch.bfloat16 if is_bf16 else torch.float32, attention="eager")
    loss = SequenceLoss(add_lora(network, lora, base="odd").train())
    formula = SavedActivations(model, lora, is_bf16=is_bf16, device="cpu")
    estimated = formula.checkpointed(BATCH) if is_checkpointed else formula.whole(BATCH)
    assert estimated == pytest.approx(saved_bytes(loss, is_bf16), rel=0.1)


def saved_bytes(loss, is_bf16):
    """Bytes of the distinct storages that a forward pass saves, weights, their copies and logits left out."""
    sizes = {tuple(parameter.shape) for parameter in loss.parameters()}
    sizes |= {size[::-1] for size in sizes}
    storages = {}

    def keep(tensor):
        if tuple(tensor.shape) not in sizes and tensor.is_floating_point():
            storages[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    texts = ([np.full(length, 7)] * BATCH.num_examples for length in (BATCH.source_tokens, BATCH.target_tokens))
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=is_bf16),
    ):
        loss(join_texts(*texts))
    return sum(storage.nbytes() for storage in storages.values())
