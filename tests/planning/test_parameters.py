"""Counts against the networks themselves, built without memory on the meta device."""

from __future__ import annotations

import pytest
import torch

from recipe_exp.config.training import LoraConfig
from recipe_exp.models.adapters import add_lora
from recipe_exp.models.finetuned import count_parameters as count_network
from recipe_exp.models.load import from_shape
from recipe_exp.planning.parameters import (
    count_linear_parameters,
    count_lora_parameters,
    count_parameters,
    count_text,
)

XXL = 11_135_332_352


def on_meta(shape):
    with torch.device("meta"):
        return from_shape(shape, dtype=torch.float32)


@pytest.mark.parametrize("size", ["small", "base", "large", "xl"])
def test_count_is_that_of_the_network(composed, size):
    shape = composed(f"model=flan_t5_{size}").model.shape
    assert count_parameters(shape) == count_network(on_meta(shape))[1]


def test_xxl_has_its_published_size(composed):
    assert count_parameters(composed("model=flan_t5_xxl").model.shape) == XXL


@pytest.mark.parametrize("is_tied", [False, True])
def test_tied_embeddings_count_once_but_are_multiplied(odd_model, is_tied):
    shape = odd_model().shape.model_copy(update={"tie_word_embeddings": is_tied})
    network = on_meta(shape)
    linear = sum(m.weight.numel() for m in network.modules() if isinstance(m, torch.nn.Linear))
    assert count_parameters(shape) == count_network(network)[1]
    assert count_linear_parameters(shape) == linear


ADAPTERS = [
    LoraConfig(rank=3, targets="attention_qv"),
    LoraConfig(rank=3, targets="attention"),
    LoraConfig(rank=3, targets="all_linear"),
    LoraConfig(rank=3, targets=("SelfAttention.q", "wo")),
    LoraConfig(rank=3, targets="attention", dora=True, dropout=0.0),
]


@pytest.mark.parametrize("lora", ADAPTERS)
def test_lora_count_is_that_of_the_adapter(odd_model, lora):
    network = add_lora(from_shape(odd_model().shape, dtype=torch.float32), lora, base="odd")
    assert count_lora_parameters(odd_model().shape, lora) == count_network(network)[0]


def test_lora_count_of_xxl(composed):
    lora = LoraConfig(rank=16, targets="attention_qv")
    assert count_lora_parameters(composed("model=flan_t5_xxl").model.shape, lora) == 18_874_368


def test_numbers_are_in_units_that_are_read_easily():
    counts = (12, 4800, 247_577_856, 11_135_332_352, 1.39e12)
    assert [count_text(n) for n in counts] == ["12", "4.8 k", "248 M", "11.1 B", "1.39 T"]
