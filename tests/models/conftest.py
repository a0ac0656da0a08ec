"""Networks small enough to be built anew by every test."""

from __future__ import annotations

import pytest
import torch
from transformers import T5ForConditionalGeneration

from recipe_exp.config.model import ModelShape
from recipe_exp.models import load

torch.set_num_threads(1)


@pytest.fixture
def shape() -> ModelShape:
    return ModelShape(vocab_size=60, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_decoder_layers=1, num_heads=3)


@pytest.fixture
def network(shape: ModelShape) -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    return load.from_shape(shape, dtype=torch.float32)
