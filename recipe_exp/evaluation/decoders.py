"""The next token's scores for many texts at once, each remembering what it has read and written."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from transformers import DynamicCache, EncoderDecoderCache


class Decoder(Protocol):
    """Texts that are being written, one a row; with a beam search `num_beams` rows a prompt, beside each other."""

    def scores(self, tokens: torch.Tensor) -> torch.Tensor:
        """Returns the logits of each row's next token, (rows, vocabulary), after it read its last one, (rows,)."""

    def reorder(self, rows: torch.Tensor) -> None:
        """Lets each row go on from what another of the same prompt has written, (rows,)."""

    def keep(self, prompts: torch.Tensor) -> None:
        """Keeps only these prompts, in this order, (prompts,)."""


def build_decoder(
    network: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, *, num_beams: int, max_new_tokens: int
) -> Decoder:
    """Returns the decoder of encoded prompts.

    Args:
        network: an encoder-decoder without a wrapper; modules in it may be those of an adapter.
        input_ids: of the prompts, (prompts, source_length).
        attention_mask: 1 for real tokens, (prompts, source_length).
        num_beams: rows a prompt.
        max_new_tokens: how many tokens a row reads at most.
    """
    encoded = network.get_encoder()(input_ids=input_ids, attention_mask=attention_mask)[0]
    if network.config.model_type in ("t5", "mt5"):
        return T5Decoder(network, encoded, attention_mask, num_beams=num_beams, max_new_tokens=max_new_tokens)
    return CachedDecoder(network, encoded, attention_mask, num_beams=num_beams)


class T5Decoder:
    """T5's decoder, one token of every row at a time, with its own memory of keys and values.

    The memory is allocated once. What a row has written is a slice of it, the prompt's keys and values are computed
    once and shared by its beams, and so is the bias of relative positions: of the row `max_new_tokens` tokens away
    every shorter distance is a part. A prompt that is dropped leaves a hole that the last one moves into, so dropping
    copies one row, not all of them.

    Args:
        network: a T5 or mT5.
        encoded: the encoder's output, (prompts, source_length, d_model).
        attention_mask: 1 for real tokens, (prompts, source_length).
        num_beams: rows a prompt.
        max_new_tokens: how many tokens a row reads at most.
    """

    def __init__(
        self, network: Any, encoded: torch.Tensor, attention_mask: torch.Tensor, *, num_beams: int, max_new_tokens: int
    ) -> None:
        self._network = network
        self._stack = network.get_decoder()
        self._num_beams = num_beams
        self._max_new_tokens = max_new_tokens
        self._num_prompts = len(encoded)
        self._num_read = 0
        first = self._stack.block[0].layer[0].SelfAttention
        self._heads, self._width = first.n_heads, first.key_value_proj_dim
        self._bias = first.compute_bias(1, max_new_tokens, encoded.device, max_new_tokens - 1)
        self._mask = _additive(attention_mask, encoded.dtype)
        self._source = [self._read_source(block.layer[1].EncDecAttention, encoded) for block in self._stack.block]
        self._written: torch.Tensor | None = None

    def scores(self, tokens: torch.Tensor) -> torch.Tensor:
        """Returns the logits of each row's next token, (rows, vocabulary)."""
        hidden = self._stack.embed_tokens(tokens)
        for number, block in enumerate(self._stack.block):
            hidden = hidden + self._attend_to_itself(number, block.layer[0], hidden)
            hidden = hidden + self._attend_to_source(number, block.layer[1], hidden)
            hidden = block.layer[2](hidden)
        self._num_read += 1
        hidden = self._stack.final_layer_norm(hidden)
        if getattr(self._network.config, "scale_decoder_outputs", False):
            hidden = hidden * self._network.config.d_model**-0.5
        logits: torch.Tensor = self._network.lm_head(hidden)
        return logits

    def reorder(self, rows: torch.Tensor) -> None:
        """Copies what each row goes on from."""
        if self._written is not None and not torch.equal(rows, torch.arange(len(rows), device=rows.device)):
            read = self._written[:, :, : len(rows), :, : self._num_read]
            read.copy_(read.index_select(2, rows))

    def keep(self, prompts: torch.Tensor) -> None:
        """Moves prompts into the places of those that are dropped; `prompts` of low numbers should stay in place."""
        places = (prompts != torch.arange(len(prompts), device=prompts.device)).nonzero().flatten()
        movers = prompts[places]
        for memory in self._source:
            memory[:, places] = memory[:, movers]
        if self._mask is not None:
            self._mask[places] = self._mask[movers]
        if self._written is not None:
            beams = torch.arange(self._num_beams, device=prompts.device)
            to, of = ((of_prompt[:, None] * self._num_beams + beams).flatten() for of_prompt in (places, movers))
            read = self._written[..., : self._num_read, :]
            read[:, :, to] = read[:, :, of]
        self._num_prompts = len(prompts)

    def _read_source(self, attention: Any, encoded: torch.Tensor) -> torch.Tensor:
        """Returns keys and values of the prompts, (2, prompts, heads, source_length, width)."""
        shape = (*encoded.shape[:2], self._heads, self._width)
        both = torch.stack([attention.k(encoded).view(shape), attention.v(encoded).view(shape)])
        # They are multiplied at every step; a copy in order pays.
        return both.transpose(2, 3).contiguous()

    def _attend_to_itself(self, number: int, layer: Any, hidden: torch.Tensor) -> torch.Tensor:
        attention, rows, last = layer.SelfAttention, len(hidden), self._num_read
        normed = layer.layer_norm(hidden)
        key, value = (project(normed).view(rows, self._heads, self._width) for project in (attention.k, attention.v))
        if self._written is None:
            shape = (len(self._stack.block), 2, rows, self._heads, self._max_new_tokens, self._width)
            self._written = torch.empty(shape, dtype=key.dtype, device=key.device)
        keys, values = self._written[number, :, :rows, :, : last + 1]
        keys[:, :, last], values[:, :, last] = key, value
        query = attention.q(normed).view(rows, self._heads, 1, self._width)
        scores = query @ keys.transpose(2, 3) + self._bias[..., self._max_new_tokens - 1 - last :]
        mixed = scores.softmax(dim=-1).to(values.dtype) @ values
        projected: torch.Tensor = attention.o(mixed.view(rows, -1))
        return projected

    def _attend_to_source(self, number: int, layer: Any, hidden: torch.Tensor) -> torch.Tensor:
        """The beams of a prompt are queries of one attention, so its keys and values are there once."""
        attention = layer.EncDecAttention
        keys, values = self._source[number][:, : self._num_prompts]
        query = attention.q(layer.layer_norm(hidden)).view(-1, self._num_beams, self._heads, self._width)
        scores = query.transpose(1, 2) @ keys.transpose(2, 3)
        if self._mask is not None:
            scores = scores + self._mask[: self._num_prompts]
        mixed = scores.softmax(dim=-1).to(values.dtype) @ values
        projected: torch.Tensor = attention.o(mixed.transpose(1, 2).reshape(len(hidden), -1))
        return projected


class CachedDecoder:
    """The decoder of a family without a loop of its own here: transformers' forward pass and its cache.

    Args:
        network: an encoder-decoder.
        encoded: the encoder's output, (prompts, source_length, d_model).
        attention_mask: 1 for real tokens, (prompts, source_length).
        num_beams: rows a prompt.
    """

    def __init__(self, network: Any, encoded: torch.Tensor, attention_mask: torch.Tensor, *, num_beams: int) -> None:
        self._network = network
        self._num_beams = num_beams
        self._encoded = encoded.repeat_interleave(num_beams, dim=0)
        self._mask = attention_mask.repeat_interleave(num_beams, dim=0)
        config = network.config
        self._memory = EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config))

    def scores(self, tokens: torch.Tensor) -> torch.Tensor:
        """Returns the logits of each row's next token, (rows, vocabulary)."""
        hidden = self._network.get_decoder()(
            input_ids=tokens[:, None],
            encoder_hidden_states=self._encoded,
            encoder_attention_mask=self._mask,
            past_key_values=self._memory,
            use_cache=True,
        )[0]
        logits: torch.Tensor = self._network.lm_head(hidden[:, 0])
        return logits

    def reorder(self, rows: torch.Tensor) -> None:
        """Copies what each row goes on from."""
        self._memory.self_attention_cache.reorder_cache(rows)

    def keep(self, prompts: torch.Tensor) -> None:
        """Copies the rows that stay."""
        beams = torch.arange(self._num_beams, device=prompts.device)
        rows = (prompts[:, None] * self._num_beams + beams).flatten()
        self._encoded, self._mask = self._encoded[rows], self._mask[rows]
        self._memory.batch_select_indices(rows)


def _additive(attention_mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor | None:
    """Returns what is added to the scores of each prompt's tokens, (prompts, 1, 1, source_length); None for nothing."""
    if bool(attention_mask.all()):
        return None
    return ((1 - attention_mask.to(dtype)) * torch.finfo(dtype).min)[:, None, None, :]
