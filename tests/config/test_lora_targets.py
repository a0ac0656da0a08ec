from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import T5ForConditionalGeneration

from recipe_exp.config.lora_targets import PRESETS, adapted_modules, is_target, linear_modules, mistake_of_targets
from recipe_exp.config.model import ModelShape
from recipe_exp.models import load

SHAPE = ModelShape(vocab_size=60, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_decoder_layers=3, num_heads=3)


def network() -> T5ForConditionalGeneration:
    with torch.device("meta"):
        return load.from_shape(SHAPE, dtype=torch.float32)


def test_the_modules_are_those_of_the_real_network() -> None:
    real = {
        name: (module.out_features, module.in_features)
        for name, module in network().named_modules()
        if isinstance(module, nn.Linear) and name != "lm_head"
    }
    assert linear_modules(SHAPE) == real


@pytest.mark.parametrize(
    ("targets", "count"),
    [
        ("attention_qv", 2 * 8),
        ("attention", 4 * 8),
        ("all_linear", 4 * 8 + 3 * 5),
        (("wo",), 5),
        (("EncDecAttention.q",), 3),
        (("encoder.block.1.layer.0.SelfAttention.q", "SelfAttention.v"), 1 + 5),
        (("nonsense",), 0),
    ],
)
def test_a_name_is_the_end_of_a_dotted_one(targets: str | tuple[str, ...], count: int) -> None:
    assert len(adapted_modules(SHAPE, targets)) == count


def test_a_part_of_a_name_is_no_name() -> None:
    assert is_target("a.wi_0", ("wi_0",))
    assert not is_target("a.wi_0", ("i_0", "wi", "a"))


def test_what_means_nothing_is_named_with_what_is_there() -> None:
    modules = [*linear_modules(SHAPE), "lm_head"]
    for preset in PRESETS:
        assert mistake_of_targets(modules, preset, "T5") is None
    line = mistake_of_targets(modules, ("q", "x", "lm_head"), "T5")
    assert line is not None
    assert line.startswith(
        "training.adapter.targets: x, lm_head mean no linear layer of T5; name of q, k, v, o, wi_0, wi_1, wo,"
    )
    other = mistake_of_targets(["encoder.layers.0.self_attn.qkv"], "attention_qv", "other")
    assert other is not None
    assert other.startswith(
        "training.adapter.targets: q, v, q_proj, v_proj mean no linear layer of other; name of qkv, or"
    )
    assert mistake_of_targets(["encoder.layers.0.self_attn.q_proj"], "attention_qv", "bart") is None


def test_names_of_bart_mean_the_layers_in_their_place() -> None:
    pairs = {"q_proj": "q", "out_proj": "o", "encoder_attn.v_proj": "EncDecAttention.v", "fc1": "wi_0", "fc2": "wo"}
    for bart, t5 in pairs.items():
        assert adapted_modules(SHAPE, (bart,)) == adapted_modules(SHAPE, (t5,)) != {}
