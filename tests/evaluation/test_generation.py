from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import T5ForConditionalGeneration

from recipe_exp.data.tokens.cache import TokenCache
from recipe_exp.data.tokens.tokenizer import RecipeTokenizer
from recipe_exp.evaluation import generation
from recipe_exp.evaluation.generation import generate


@pytest.fixture
def prompts(cache: TokenCache) -> list[str]:
    """Prompts of very different lengths, not in their order."""
    texts = [example.source_text for example in cache.examples("train")[:8]]
    return [*texts[:4], "soup", *texts[4:], "a", texts[0][:30]]


def alone(network: Any, tokenizer: RecipeTokenizer, prompt: str, **settings: Any) -> str:
    """What transformers writes for one prompt without any company."""
    network.eval()
    output = network.generate(input_ids=torch.tensor([tokenizer.encode(prompt)]), do_sample=False, **settings)
    return tokenizer.decode(output[0].tolist())


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_recipe_does_not_depend_on_the_company_of_its_prompt(
    network: T5ForConditionalGeneration,
    cache: TokenCache,
    prompts: list[str],
    num_beams: int,
) -> None:
    settings = {"max_new_tokens": 20, "num_beams": num_beams}
    expected = [alone(network, cache.tokenizer, prompt, **settings) for prompt in prompts]
    assert len(set(expected)) > 3, "the prompts matter"
    for batch_tokens in (generation.BATCH_TOKENS, 400, 1):
        assert generate(network, cache.tokenizer, prompts, **settings, batch_tokens=batch_tokens) == expected
    backwards = generate(network, cache.tokenizer, prompts[::-1], **settings)
    assert backwards == expected[::-1]


def test_batches_hold_similar_lengths_within_the_budget() -> None:
    encoded = [[5] * length for length in (40, 3, 4, 90, 5, 41)]
    order = sorted(range(6), key=lambda index: len(encoded[index]))
    batches = generation._batches(order, encoded, max_new_tokens=9, num_beams=1, batch_tokens=100)
    assert batches == [[1, 2, 4], [0, 5], [3]]
    assert generation._batches(order, encoded, max_new_tokens=9, num_beams=3, batch_tokens=100) == [
        [1, 2],
        [4],
        [0],
        [5],
        [3],
    ]


def test_a_recipe_is_no_longer_than_allowed_and_at_least_that_long(
    network: T5ForConditionalGeneration, cache: TokenCache
) -> None:
    """transformers stops at 20 tokens where nothing is said."""
    with torch.no_grad():
        network.lm_head.weight[cache.tokenizer.eos_id] = 0.0
    lengths: dict[int, int] = {}
    original = cache.tokenizer.decode

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(cache.tokenizer, name)

        def decode(self, ids: list[int]) -> str:
            lengths[limit] = len(ids) - 1
            return original(ids)

    for limit in (5, 37):
        generate(network, Counting(), ["soup"], max_new_tokens=limit)  # type: ignore[arg-type]
    assert lengths == {5: 5, 37: 37}


@pytest.mark.parametrize("limit", [1, 2, 7, 96])
def test_a_cut_prompt_still_ends_with_the_end_token(
    network: T5ForConditionalGeneration, cache: TokenCache, prompts: list[str], limit: int
) -> None:
    seen: list[list[int]] = []

    def watch(input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> torch.Tensor:
        seen.extend(row[mask.bool()].tolist() for row, mask in zip(input_ids, attention_mask, strict=True))
        return torch.zeros((len(input_ids), 1), dtype=torch.long)

    network.generate = watch
    generate(network, cache.tokenizer, prompts, max_new_tokens=3, max_source_tokens=limit)
    whole = [cache.tokenizer.encode(prompt) for prompt in prompts]
    expected = [ids if len(ids) <= limit else [*ids[: limit - 1], cache.tokenizer.eos_id] for ids in whole]
    assert sorted(seen) == sorted(expected)
    assert any(len(ids) > limit for ids in whole) or limit == 96
    assert {ids[-1] for ids in seen} == {cache.tokenizer.eos_id}


def test_a_prompt_is_cut_as_in_training(cache: TokenCache) -> None:
    tokens = cache.split("train")
    limit = 96
    cut = [index for index in range(len(tokens)) if tokens.source_lengths[index] == limit]
    assert cut
    for index in cut:
        ids = cache.tokenizer.encode(cache.examples("train")[index].source_text)
        assert generation._cut(ids, limit) == tokens.source(index).tolist()


def test_the_network_is_left_as_it_was(network: T5ForConditionalGeneration, cache: TokenCache) -> None:
    assert network.training
    first = generate(network, cache.tokenizer, ["soup"], max_new_tokens=8)
    assert network.training
    assert generate(network, cache.tokenizer, ["soup"], max_new_tokens=8) == first, "without dropout"
    network.generate = None
    with pytest.raises(TypeError):
        generate(network, cache.tokenizer, ["soup"], max_new_tokens=8)
    assert network.training
    assert generate(network, cache.tokenizer, [], max_new_tokens=8) == []
