"""Attention between concatenated texts through PyTorch's FlexAttention, with the dropout that it refuses.

FlexAttention (https://arxiv.org/abs/2412.05496) changes scores before their softmax, and dropout comes after it. So
every key stands there twice, once with its value and once with zeros: a pair of tokens that is kept has its score at
the first and none at the second, a pair that is dropped the other way round. The total of a row's weights then counts
every pair, and what it adds up those that are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import pad

from recipe_exp.data.loader import moved
from recipe_exp.models.unpadded.compiling import Kernels, prepare_compiler
from recipe_exp.models.unpadded.counter_dropout import Drop, Site, keep, keys_of_columns
from recipe_exp.models.unpadded.segments import IndexArray, Segments

_BLOCK = 128
"""Tokens of a side of FlexAttention's blocks; blocks in which no token attends to another are not computed."""


class _Layout(NamedTuple):
    """Which tokens attend to which.

    Attributes:
        rows: int64, (tokens * heads,), their numbers.
        places: int32, (tokens,), the place of each token in its text.
        key_places: int32, (key places,), the same of what is attended to.
        columns: int32, (key places,), their keys of dropout.
        has_no_value: bool, (key places,), whether it is the one of two keys that stands for dropped pairs.
        blocks: who is of the same text, and which blocks hold such a pair.
    """

    rows: torch.Tensor
    places: torch.Tensor
    key_places: torch.Tensor
    columns: torch.Tensor
    has_no_value: torch.Tensor
    blocks: BlockMask


def attend_with_flex(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    bias: torch.Tensor | None,
    segments: Segments,
    site: Site | None,
    kernels: Kernels,
) -> torch.Tensor:
    """Returns what `attention.attend` does, dropout included; keeps no weights, and pads all keys to a block at most.

    A trained bias gets its gradient by atomic additions, whose order and so whose last digits differ from pass to pass.
    It is compiled at its first call, on a GPU: PyTorch refuses to train with it on a CPU. Arguments are those of
    `attend`.

    Raises:
        ValueError: the bias is a view of another tensor, which PyTorch would give no gradient (seen in 2.13), or is
            missing in a causal attention.
    """
    segments.check_bias(bias)
    if bias is not None and bias._is_view():
        raise ValueError("FlexAttention gives no gradient to the tensor that a bias is a view of")
    num_heads = segments.num_heads
    layout = segments.once(_layout, 1 if site is None else 2)
    drop = None
    if site is not None:
        row_keys = kernels.attention_row_keys(site.row_keys, layout.rows, num_heads).view(-1, num_heads)
        drop = site.drop(row_keys, layout.columns)
        values = values * site.scale
    keys, values = (pad(side, (0, 0, 0, -len(side) % _BLOCK)) for side in (keys, values))
    if site is not None:
        keys, values = torch.cat([keys, keys]), pad(values, (0, 0, 0, len(values)))
    heads_first = [side.view(1, len(side), num_heads, -1).transpose(1, 2) for side in (queries, keys, values)]
    found = _compiled()(*heads_first, bias, layout, drop)
    return found.transpose(1, 2).reshape(len(queries), -1)


def _flex(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    bias: torch.Tensor | None,
    layout: _Layout,
    drop: Drop | None,
) -> torch.Tensor:
    """Returns (1, heads, tokens, d_kv); queries are that too, keys and values (1, heads, key places, d_kv)."""

    def score(value: torch.Tensor, _: torch.Tensor, head: torch.Tensor, query: Any, key: Any) -> torch.Tensor:
        if bias is not None:
            value = value + bias[head, layout.places[query], layout.key_places[key]]
        if drop is not None:
            is_dropped = ~keep(drop.row_keys[query, head], drop.columns[key], drop.threshold)
            value = torch.where(is_dropped == layout.has_no_value[key], value, -math.inf)
        return value

    found: torch.Tensor = flex_attention(queries, keys, values, score, layout.blocks, scale=1.0)
    return found


@lru_cache(maxsize=1)
def _compiled() -> Callable[..., torch.Tensor]:
    # Uncompiled, PyTorch 2.13 gives a position bias a wrong gradient under gradient checkpointing.
    prepare_compiler()
    return torch.compile(_flex, dynamic=True, fullgraph=True)


def _layout(segments: Segments, num_copies: int) -> _Layout:
    """Returns who attends to whom, with each key so many times."""
    device = segments.queries.rows.device
    texts, places = _numbered(segments.lengths)
    key_texts, key_places = _numbered(segments.key_lengths)
    num_missing = -len(key_texts) % _BLOCK
    key_texts = np.tile(np.pad(key_texts, (0, num_missing), constant_values=-1), num_copies)
    key_places = np.tile(np.pad(key_places, (0, num_missing)), num_copies)
    has_no_value = np.arange(len(key_texts)) >= len(key_texts) // num_copies
    computed = np.tile(_computed(segments), num_copies)
    # Those that are computed come first in each row.
    order = np.argsort(~computed, axis=1, kind="stable")

    def placed(array: np.ndarray[Any, Any]) -> torch.Tensor:
        return moved(torch.from_numpy(array), device)

    of_queries, of_keys = placed(texts.astype(np.int32)), placed(key_texts.astype(np.int32))
    blocks = BlockMask.from_kv_blocks(
        placed(computed.sum(axis=1).astype(np.int32))[None, None],
        placed(order.astype(np.int32))[None, None],
        BLOCK_SIZE=_BLOCK,
        mask_mod=lambda _, __, query, key: of_queries[query] == of_keys[key],
        seq_lengths=(len(texts), len(key_texts)),
    )
    in_key_texts = placed(key_places.astype(np.int32))
    return _Layout(
        rows=torch.arange(len(texts) * segments.num_heads, device=device),
        places=placed(places.astype(np.int32)),
        key_places=in_key_texts,
        columns=keys_of_columns(in_key_texts),
        has_no_value=placed(has_no_value),
        blocks=blocks,
    )


def _numbered(lengths: IndexArray) -> tuple[IndexArray, IndexArray]:
    """Returns the number of each token's text and its place in there."""
    texts = np.repeat(np.arange(len(lengths)), lengths)
    return texts, np.arange(len(texts)) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _computed(segments: Segments) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Returns which blocks of keys each block of queries attends to, (blocks of queries, blocks of keys)."""
    ends, key_ends = np.cumsum(segments.lengths), np.cumsum(segments.key_lengths)
    first = np.arange(0, ends[-1], _BLOCK)
    last = np.minimum(first + _BLOCK, ends[-1]) - 1
    # The texts of a block's first and last token.
    texts, last_texts = (np.searchsorted(ends, tokens, side="right") for tokens in (first, last))
    begin = (key_ends - segments.key_lengths)[texts]
    end = last + 1 if segments.is_causal else key_ends[last_texts]
    blocks = np.arange(-(-key_ends[-1] // _BLOCK)) * _BLOCK
    found: np.ndarray[Any, np.dtype[np.bool_]] = (blocks < end[:, None]) & (blocks + _BLOCK > begin[:, None])
    return found
