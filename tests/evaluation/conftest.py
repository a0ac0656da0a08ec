"""A small cache of generated recipes and a network of its vocabulary."""

from __future__ import annotations

import pytest
import torch
from transformers import T5ForConditionalGeneration

from recipe_exp.config.data import DataConfig
from recipe_exp.config.model import ModelShape
from recipe_exp.data.tokens.cache import TokenCache, build_or_open_cache
from recipe_exp.models import load

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> TokenCache:
    config = DataConfig(
        format="sample",
        max_examples=80,
        validation_fraction=0.3,
        test_fraction=0.0,
        max_source_tokens=96,
        max_target_tokens=400,
    )
    folder = tmp_path_factory.mktemp("cache")
    return build_or_open_cache(config, cache_dir=folder, tokenizer=None, vocab_size=400, num_workers=1)


@pytest.fixture
def network(cache: TokenCache) -> T5ForConditionalGeneration:
    """Random weights that end some texts early and are far from undecided between tokens."""
    torch.manual_seed(0)
    shape = ModelShape(vocab_size=400, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_decoder_layers=2, num_heads=4)
    network = load.from_shape(shape, dtype=torch.float32)
    with torch.no_grad():
        network.lm_head.weight *= 4
        network.lm_head.weight[cache.tokenizer.eos_id] *= 2
    return network.train()
