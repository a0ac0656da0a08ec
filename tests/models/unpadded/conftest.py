"""A small network whose weights hide nothing, texts of very different lengths, and kernels compiled or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from transformers import T5ForConditionalGeneration

from recipe_exp.config.model import ModelShape
from recipe_exp.data.loader import MicroBatch, join_texts
from recipe_exp.models import load
from recipe_exp.models.unpadded.compiling import UNCOMPILED, Kernels

SHAPE = ModelShape(vocab_size=80, d_model=24, d_kv=8, d_ff=40, num_layers=2, num_decoder_layers=3, num_heads=3)
Builder = Callable[..., T5ForConditionalGeneration]
LENGTHS = ((5, 40), (17, 7), (1, 150), (30, 1), (9, 61), (17, 8))


@pytest.fixture
def built() -> Builder:
    """Builds the network: `built(attention, dropout)`."""
    return build


def build(attention: str = "eager", dropout: float = 0.0) -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    network = load.from_shape(SHAPE, dtype=torch.float32, attention=attention)
    # Norms of one and biases of zero would hide mistakes.
    for name, parameter in network.named_parameters():
        if "layer_norm" in name or "relative_attention_bias" in name:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.3)
    load.set_dropout(network, dropout)
    return network.train()


@pytest.fixture
def batch() -> MicroBatch:
    generator = torch.Generator().manual_seed(3)

    def texts(side: int) -> list[Any]:
        return [torch.randint(3, SHAPE.vocab_size, (pair[side],), generator=generator).numpy() for pair in LENGTHS]

    return join_texts(texts(0), texts(1), noise=(7, 11))


@pytest.fixture(scope="session")
def compiled() -> Iterator[Kernels]:
    kernels = Kernels(is_compiled=True)
    yield kernels
    # A compiler that gives up would leave every test to the kernels as they stand.
    assert kernels.is_compiled


@pytest.fixture(params=["uncompiled", pytest.param("compiled", marks=pytest.mark.slow)])
def kernels(request: pytest.FixtureRequest, compiled: Kernels) -> Kernels:
    return compiled if request.param == "compiled" else UNCOMPILED
