"""Lengths of examples: typical ones, those of a token cache, and the micro-batches that they make."""

from __future__ import annotations

import numpy as np
import pytest

from recipe_exp.data.tokens.cache import build_or_open_cache
from recipe_exp.planning.lengths import Lengths, estimated_lengths, lengths_of, typical_batch


def test_typical_recipes_have_their_median_and_mean(composed):
    data = composed("model=flan_t5_base").data.model_copy(update={"max_target_tokens": 10_000})
    lengths = estimated_lengths(data, 100)
    assert np.median(lengths.targets) == pytest.approx(115, abs=1)
    assert lengths.mean_target_tokens == pytest.approx(138, rel=0.01)
    assert lengths.mean_source_tokens == pytest.approx(25, rel=0.02)


def test_no_example_is_longer_than_data_allows(composed):
    data = composed("model=flan_t5_base").data.model_copy(update={"max_source_tokens": 20, "max_target_tokens": 100})
    lengths = estimated_lengths(data, None)
    assert (lengths.sources.max(), lengths.targets.max(), lengths.longest_tokens) == (20, 100, 120)
    assert lengths.is_estimated


def test_those_of_a_cache_are_its_own(composed, cache_dir):
    config = composed("data.max_examples=60", "data.prompts={title:1,title_and_ingredients:3}")
    cache = build_or_open_cache(config.data, cache_dir=cache_dir, tokenizer=None, vocab_size=700)
    split, lengths = cache.split("train"), lengths_of(cache)
    assert lengths.num_examples == len(split)
    assert lengths.mean_target_tokens == pytest.approx(split.target_lengths.mean())
    assert lengths.mean_source_tokens == pytest.approx(
        (split.all_source_lengths @ cache.prompts.weights).mean(), abs=0.5
    )
    assert lengths.longest_tokens == (split.all_source_lengths.max(axis=1) + split.target_lengths).max()


@pytest.mark.parametrize("budget", [400, 2000, None])
def test_a_typical_micro_batch_keeps_the_budget(budget):
    targets = np.arange(50, 250)
    lengths = Lengths(np.full(200, 20), targets, 270, 200, "made up", is_estimated=False)
    batch = typical_batch(lengths, 16, budget, 1)
    assert batch.source_tokens == 20
    assert 50 <= batch.target_tokens < 250
    if budget is None:
        assert batch.num_examples == 16
    else:
        assert batch.all_source_tokens + batch.all_target_tokens <= budget
