"""Where texts lie among concatenated tokens, and how attention groups texts of similar lengths."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

IndexArray = npt.NDArray[np.int64]

_BUCKET_COST = 16_384
"""Pairs of tokens that computing one more bucket costs as much as: the fixed costs of its kernels on a CPU."""

KEY_MULTIPLE = 16
"""Places of keys are a multiple of it, so that every row of scores begins where a processor reads it at once."""


@dataclass(frozen=True)
class Bucket:
    """Texts whose attention is computed together, padded to the longest of them.

    Attributes:
        num_texts: how many.
        num_queries: places of each text that ask.
        num_keys: places of each text that are attended to, a multiple of 16.
        key_mask: fp32, (texts, keys), 0 where a token stands and -inf behind; None where a causal bias hides these.
        first_query: the first of its places among those of all buckets.
        first_key: the same of what is attended to.
    """

    num_texts: int
    num_queries: int
    num_keys: int
    key_mask: torch.Tensor | None
    first_query: int
    first_key: int

    def queries_of(self, rows: torch.Tensor, num_heads: int) -> torch.Tensor:
        """Returns its part of the rows of all buckets as (heads * texts, queries, ...), a view.

        Args:
            rows: (places * heads, ...), as `Side` orders them.
            num_heads: of the attention.
        """
        return _part(rows, self.first_query, (num_heads, self.num_texts, self.num_queries))

    def keys_of(self, rows: torch.Tensor, num_heads: int) -> torch.Tensor:
        """Returns the same for what is attended to, (heads * texts, keys, ...)."""
        return _part(rows, self.first_key, (num_heads, self.num_texts, self.num_keys))


def _part(rows: torch.Tensor, first_place: int, shape: tuple[int, int, int]) -> torch.Tensor:
    num_heads, num_texts, length = shape
    part = rows.narrow(0, first_place * num_heads, num_heads * num_texts * length)
    return part.view(num_heads * num_texts, length, *rows.shape[1:])


@dataclass(frozen=True)
class Side:
    """Where the tokens that ask, or those that are attended to, stand in the padded buckets.

    The rows of a bucket, one for each head of a place, are ordered by head, text and place.

    Attributes:
        rows: int64, (places * heads,), which of (tokens * heads) each row holds, -1 for none.
        taken: int64, (places * heads,), the same with any token where there is none.
        places: int64, (tokens * heads,), the row that holds it.
    """

    rows: torch.Tensor
    taken: torch.Tensor
    places: torch.Tensor


@dataclass(frozen=True)
class Segments:
    """The texts of one side of a micro-batch, concatenated, and who attends to whom.

    Attributes:
        lengths: tokens of each text, on the host.
        key_lengths: tokens of what each text attends to, on the host.
        num_heads: of the attention.
        buckets: that together hold each text once.
        queries: where the tokens stand.
        keys: where those that they attend to stand.
    """

    lengths: IndexArray
    key_lengths: IndexArray
    num_heads: int
    buckets: tuple[Bucket, ...]
    queries: Side
    keys: Side

    @property
    def num_biased_places(self) -> int:
        """Places between which a position bias is needed.

        It is more than any bucket has: a compiler makes a kernel of its own for a bucket that takes all of the bias.
        """
        return max(bucket.num_keys for bucket in self.buckets) + KEY_MULTIPLE

    @cached_property
    def boundaries(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Where each text begins and the last one ends, int32, (texts + 1,), and the same of what is attended to."""
        device = self.queries.rows.device
        sides = [np.concatenate([[0], np.cumsum(lengths)]) for lengths in (self.lengths, self.key_lengths)]
        moved = [torch.from_numpy(ends.astype(np.int32)).to(device, non_blocking=True) for ends in sides]
        return moved[0], moved[1]


def self_segments(lengths: IndexArray, *, num_heads: int, is_causal: bool, device: torch.device) -> Segments:
    """Returns texts whose tokens attend to tokens of the same text.

    Args:
        lengths: (texts,) tokens of each.
        num_heads: of the attention.
        is_causal: whether a token sees none after it, by the bias that attention is given.
        device: where the indices are needed.
    """
    return _segments(lengths, lengths, num_heads, device, is_causal)


def cross_segments(lengths: IndexArray, key_lengths: IndexArray, *, num_heads: int, device: torch.device) -> Segments:
    """Returns targets whose tokens attend to the source of the same example."""
    return _segments(lengths, key_lengths, num_heads, device, is_causal=False)


def _segments(
    lengths: IndexArray, key_lengths: IndexArray, num_heads: int, device: torch.device, is_causal: bool
) -> Segments:
    groups = _texts_by_bucket(lengths, key_lengths)
    buckets = _buckets(lengths, key_lengths, groups, device, is_causal)
    queries = _side(lengths, [bucket.num_queries for bucket in buckets], groups, num_heads, device)
    keys = _side(key_lengths, [bucket.num_keys for bucket in buckets], groups, num_heads, device)
    return Segments(lengths, key_lengths, num_heads, buckets, queries, keys)


def _texts_by_bucket(queries: IndexArray, keys: IndexArray) -> list[IndexArray]:
    order = np.lexsort((keys, queries))
    cuts = _cheapest_cuts(queries[order], keys[order])
    return [order[begin:end] for begin, end in itertools.pairwise(cuts)]


def _buckets(
    queries: IndexArray, keys: IndexArray, groups: list[IndexArray], device: torch.device, is_causal: bool
) -> tuple[Bucket, ...]:
    buckets, first_query, first_key = [], 0, 0
    for texts in groups:
        num_queries = int(queries[texts].max())
        num_keys = -(-int(keys[texts].max()) // KEY_MULTIPLE) * KEY_MULTIPLE
        key_mask = None if is_causal else _key_mask(keys[texts], num_keys).to(device, non_blocking=True)
        buckets.append(Bucket(len(texts), num_queries, num_keys, key_mask, first_query, first_key))
        first_query, first_key = first_query + len(texts) * num_queries, first_key + len(texts) * num_keys
    return tuple(buckets)


def _key_mask(lengths: IndexArray, width: int) -> torch.Tensor:
    return torch.from_numpy(np.where(np.arange(width) < lengths[:, None], 0.0, -np.inf).astype(np.float32))


def _side(
    lengths: IndexArray, widths: list[int], groups: list[IndexArray], num_heads: int, device: torch.device
) -> Side:
    starts = np.cumsum(lengths) - lengths
    padded = [_padded(lengths[texts], starts[texts], width) for texts, width in zip(groups, widths, strict=True)]
    all_tokens = torch.from_numpy(np.concatenate([each.ravel() for each in padded])).to(device, non_blocking=True)
    heads = torch.arange(num_heads, device=device)[:, None]
    parts = torch.split(all_tokens, [each.size for each in padded])
    rows = torch.cat([torch.where(tokens < 0, -1, tokens * num_heads + heads).flatten() for tokens in parts])
    num_rows = int(lengths.sum()) * num_heads
    # Rows that hold nothing all write behind the end.
    places = rows.new_empty(num_rows + 1).scatter_(
        0, torch.where(rows < 0, num_rows, rows), torch.arange(len(rows), device=device)
    )
    return Side(rows, rows.clamp(min=0), places[:-1])


def _padded(lengths: IndexArray, starts: IndexArray, width: int) -> IndexArray:
    """Returns the token of each place, (texts, width), -1 for none."""
    columns = np.arange(width)
    return np.where(columns < lengths[:, None], starts[:, None] + columns, -1)


def _cheapest_cuts(queries: IndexArray, keys: IndexArray) -> list[int]:
    """Returns where to cut a sorted row of texts for the fewest pairs and buckets: a shortest path."""
    num_texts = len(queries)
    costs = np.zeros(num_texts + 1)
    starts = np.zeros(num_texts + 1, dtype=np.int64)
    for end in range(1, num_texts + 1):
        widest = np.maximum.accumulate(keys[:end][::-1])
        pairs = np.arange(1, end + 1) * queries[end - 1] * widest
        total = pairs + _BUCKET_COST + costs[:end][::-1]
        best = int(np.argmin(total))
        costs[end], starts[end] = total[best], end - 1 - best
    cuts = [num_texts]
    while cuts[-1]:
        cuts.append(int(starts[cuts[-1]]))
    return cuts[::-1]
