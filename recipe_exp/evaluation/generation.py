"""Recipes for prompts, in batches of similar length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import StoppingCriteria

from recipe_exp.data.tokens.tokenizer import RecipeTokenizer
from recipe_exp.errors import ModelError

# Tokens of prompts and recipes that are written at the same time where nobody knows of less.
BATCH_TOKENS = 16_384


@torch.no_grad()
def generate(
    network: Any,
    tokenizer: RecipeTokenizer,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    num_beams: int = 1,
    max_source_tokens: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    between_batches: Callable[[], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[str]:
    """Returns one recipe for each prompt, in their order.

    Args:
        network: a T5, bare or with an adapter, on any device.
        tokenizer: of the network.
        prompts: raw text.
        max_new_tokens: longest recipe.
        num_beams: beams of the search, 1 for greedy.
        max_source_tokens: longer prompts are cut to this many tokens, as in training; None cuts nothing.
        batch_tokens: of prompts and recipes that are written at the same time; one recipe at least is.
        between_batches: called when a batch has been written.
        should_stop: asked after every token whether to leave it at that.

    Raises:
        ModelError: if a prompt or a recipe is longer than the network has positions for.
    """
    encoded = [_cut(ids, max_source_tokens) for ids in tokenizer.encode_batch(list(prompts))]
    _refuse_longer(network, max(map(len, encoded), default=0), max_new_tokens)
    order = sorted(range(len(prompts)), key=lambda index: len(encoded[index]))
    recipes = [""] * len(prompts)
    was_training = network.training
    network.eval()
    try:
        for batch in _batches(order, encoded, max_new_tokens, num_beams, batch_tokens):
            input_ids, attention_mask = _pad([encoded[index] for index in batch], tokenizer.pad_id)
            output = network.generate(
                input_ids=input_ids.to(network.device),
                attention_mask=attention_mask.to(network.device),
                max_new_tokens=max_new_tokens,
                num_beams=num_beams,
                do_sample=False,
                use_cache=True,
                stopping_criteria=None if should_stop is None else [_Stop(should_stop)],
            )
            for index, ids in zip(batch, output.tolist(), strict=True):
                recipes[index] = tokenizer.decode(ids)
            if between_batches is not None:
                between_batches()
    finally:
        network.train(was_training)
    return recipes


def _refuse_longer(network: Any, num_source_tokens: int, max_new_tokens: int) -> None:
    """T5's positions are relative and have no end; BART's do."""
    positions = getattr(network.config, "max_position_embeddings", None)
    if positions is not None and max(num_source_tokens, max_new_tokens) > positions:
        raise ModelError(
            f"a prompt of {num_source_tokens} tokens and max_new_tokens={max_new_tokens}: the network has {positions} "
            "positions; shorten what is longer"
        )


class _Stop(StoppingCriteria):  # type: ignore[misc]
    """Ends every row of a batch as soon as somebody says so."""

    def __init__(self, should_stop: Callable[[], bool]) -> None:
        self._should_stop = should_stop

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), self._should_stop(), device=input_ids.device)


def _cut(ids: list[int], max_tokens: int | None) -> list[int]:
    if max_tokens is None or len(ids) <= max_tokens:
        return ids
    return [*ids[: max_tokens - 1], ids[-1]]


def _batches(
    order: Sequence[int], encoded: Sequence[Sequence[int]], max_new_tokens: int, num_beams: int, batch_tokens: int
) -> list[list[int]]:
    batches: list[list[int]] = []
    for index in order:
        tokens = (len(encoded[index]) + max_new_tokens) * num_beams
        if not batches or (len(batches[-1]) + 1) * tokens > batch_tokens:
            batches.append([])
        batches[-1].append(index)
    return batches


def _pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(map(len, rows))
    input_ids = torch.tensor([[*row, *[pad_id] * (length - len(row))] for row in rows])
    attention_mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    return input_ids, attention_mask
