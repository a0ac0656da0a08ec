"""Recipes for prompts: sorted by length, as many at once as a budget of tokens allows, fewer as they end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from recipe_exp.data.tokens.tokenizer import RecipeTokenizer
from recipe_exp.errors import ModelError
from recipe_exp.evaluation.decoders import build_decoder
from recipe_exp.evaluation.searching import Sampling, Texts, sample, search_beams, search_likeliest
from recipe_exp.hardware.memory import OutOfMemoryError, out_of_memory_noticed, release_memory
from recipe_exp.models.families import FAMILIES
from recipe_exp.models.sequence_loss import plain_network

BATCH_TOKENS = 16_384


@dataclass(frozen=True)
class Decoding:
    """How recipes are written.

    Attributes:
        max_new_tokens: longest recipe.
        num_beams: beams of the search, 1 for the likeliest token at every place.
        sampling: how tokens are drawn; None draws none.
        max_source_tokens: longer prompts are cut to this many tokens, as in training; None cuts nothing.
        batch_tokens: tokens of prompts and longest recipes that are held at once, those of every beam counted.
    """

    max_new_tokens: int
    num_beams: int = 1
    sampling: Sampling | None = None
    max_source_tokens: int | None = None
    batch_tokens: int = BATCH_TOKENS


@torch.no_grad()
def generate(
    network: Any,
    tokenizer: RecipeTokenizer,
    prompts: Sequence[str],
    decoding: Decoding,
    *,
    numbers: Sequence[int] | None = None,
    between_batches: Callable[[], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[str]:
    """Returns one recipe for each prompt, in their order; each depends on its prompt and its number alone.

    A batch that the device's memory is too small for is written in two halves.

    Args:
        network: an encoder-decoder, bare or with an adapter, on any device.
        tokenizer: of the network.
        prompts: raw text.
        decoding: how recipes are written.
        numbers: by which each prompt finds its own draws; None counts them.
        between_batches: called when a batch has been written.
        should_stop: asked after every token whether to leave it at that.

    Raises:
        ModelError: if a prompt or a recipe is longer than the network has positions for.
        OutOfMemoryError: not even one recipe fits.
    """
    encoded = [_cut(ids, decoding.max_source_tokens) for ids in tokenizer.encode_batch(list(prompts))]
    _refuse_longer(network, max(map(len, encoded), default=0), decoding.max_new_tokens)
    own_numbers = list(range(len(prompts)) if numbers is None else numbers)
    order = sorted(range(len(prompts)), key=lambda index: len(encoded[index]))
    recipes = [""] * len(prompts)
    was_training = network.training
    network.eval()
    try:
        waiting = _batches(order, encoded, decoding)[::-1]
        while waiting:
            batch = waiting.pop()
            rows = [encoded[index] for index in batch]
            written = _write_if_it_fits(network, rows, [own_numbers[index] for index in batch], decoding, should_stop)
            if written is None:
                middle = len(batch) // 2
                waiting += [batch[middle:], batch[:middle]]
                continue
            for index, ids in zip(batch, written, strict=True):
                recipes[index] = tokenizer.decode(ids)
            if between_batches is not None:
                between_batches()
    finally:
        network.train(was_training)
    return recipes


def _write_if_it_fits(
    network: Any,
    rows: Sequence[Sequence[int]],
    numbers: Sequence[int],
    decoding: Decoding,
    should_stop: Callable[[], bool] | None,
) -> list[list[int]] | None:
    """Returns the token ids of one batch's recipes; None where they need more memory than there is, but one may fit."""
    try:
        with out_of_memory_noticed():
            return _write(network, rows, numbers, decoding, should_stop)
    except OutOfMemoryError:
        if len(rows) == 1:
            raise
    # Beyond the handler, whose traceback holds the tensors.
    release_memory()
    return None


def _write(
    network: Any,
    rows: Sequence[Sequence[int]],
    numbers: Sequence[int],
    decoding: Decoding,
    should_stop: Callable[[], bool] | None,
) -> list[list[int]]:
    """Returns the token ids of one batch's recipes."""
    plain = plain_network(network)
    family, device = FAMILIES[plain.config.model_type], plain.device
    input_ids, attention_mask = _pad(rows, family.pad_id, device)
    decoder = build_decoder(
        plain, input_ids, attention_mask, num_beams=decoding.num_beams, max_new_tokens=decoding.max_new_tokens
    )
    texts = Texts(family.start_id, family.eos_id, decoding.max_new_tokens, should_stop or _never)
    if decoding.sampling is not None:
        return sample(decoder, numbers, texts, device, decoding.sampling)
    if decoding.num_beams > 1:
        return search_beams(decoder, len(rows), texts, device, decoding.num_beams)
    return search_likeliest(decoder, len(rows), texts, device)


def _refuse_longer(network: Any, num_source_tokens: int, max_new_tokens: int) -> None:
    """T5's positions are relative and have no end; BART's do."""
    positions = getattr(network.config, "max_position_embeddings", None)
    if positions is not None and max(num_source_tokens, max_new_tokens) > positions:
        raise ModelError(
            f"a prompt of {num_source_tokens} tokens and max_new_tokens={max_new_tokens}: the network has {positions} "
            "positions; shorten what is longer"
        )


def _cut(ids: list[int], max_tokens: int | None) -> list[int]:
    if max_tokens is None or len(ids) <= max_tokens:
        return ids
    return [*ids[: max_tokens - 1], ids[-1]]


def _batches(order: Sequence[int], encoded: Sequence[Sequence[int]], decoding: Decoding) -> list[list[int]]:
    batches: list[list[int]] = []
    for index in order:
        tokens = (len(encoded[index]) + decoding.max_new_tokens) * decoding.num_beams
        if not batches or (len(batches[-1]) + 1) * tokens > decoding.batch_tokens:
            batches.append([])
        batches[-1].append(index)
    return batches


def _pad(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(map(len, rows))
    input_ids = torch.tensor([[*row, *[pad_id] * (length - len(row))] for row in rows], device=device)
    attention_mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows], device=device)
    return input_ids, attention_mask


def _never() -> bool:
    return False
