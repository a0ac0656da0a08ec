"""Where texts lie among concatenated tokens, and how attention groups texts of similar lengths."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from recipe_exp.data.loader import moved

IndexArray = npt.NDArray[np.int64]
Made = TypeVar("Made")

MAX_PARTS = 8
"""Buckets into which the places of the same texts are cut where a query sees no key behind it."""
BUCKET_COST = 16_384
"""Pairs of tokens that computing one more bucket costs as much as: the fixed costs of its kernels on a CPU."""

KEY_MULTIPLE = 16
"""Places of keys are a multiple of it, so that every row of scores begins where a processor reads it at once."""


@dataclass(frozen=True)
class Bucket:
    """Texts whose attention is computed together, padded to the longest of them, or a stretch of their places.

    Attributes:
        num_texts: how many.
        first_place: the first of the places of each text that ask.
        num_queries: how many of them ask.
        num_keys: places of each text that are attended to, from its first one on, a multiple of 16.
        num_key_places: places of each text among the keys; more than `num_keys` where another bucket attends to all.
        key_mask: fp32, (texts, keys), 0 where a token stands and -inf behind; None where a causal bias hides these.
        first_query: the first of its places among those of all buckets.
        first_key: the same of what is attended to.
    """

    num_texts: int
    first_place: int
    num_queries: int
    num_keys: int
    num_key_places: int
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
        return _part(rows, self.first_key, (num_heads, self.num_texts, self.num_key_places))[:, : self.num_keys]

    @property
    def attends_to_all(self) -> bool:
        """Whether it attends to all places among the keys; one bucket of those that share them does, the first."""
        return self.num_keys == self.num_key_places


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
        buckets: that together hold each token once, in the order of their rows.
        queries: where the tokens stand.
        keys: where those that they attend to stand.
    """

    lengths: IndexArray
    key_lengths: IndexArray
    num_heads: int
    buckets: tuple[Bucket, ...]
    queries: Side
    keys: Side
    _made: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def is_causal(self) -> bool:
        """Whether a token sees none after it, by the bias that attention is given."""
        return self.buckets[0].key_mask is None

    @property
    def num_biased_places(self) -> int:
        """Places between which a position bias is needed.

        It is more than any bucket has: a compiler makes a kernel of its own for a bucket that takes all of the bias.
        """
        return max(bucket.num_keys for bucket in self.buckets) + KEY_MULTIPLE

    def check_bias(self, bias: torch.Tensor | None) -> None:
        """Raises a ValueError where nothing says what a causal attention does not look at."""
        if bias is None and self.is_causal:
            raise ValueError("a causal attention takes a bias that is -inf where it does not look")

    def once(self, make: Callable[..., Made], *arguments: Hashable) -> Made:
        """Returns `make(segments, *arguments)`: made at its first call, kept for the other blocks of a stack."""
        key = (make, arguments)
        if key not in self._made:
            self._made[key] = make(self, *arguments)
        made: Made = self._made[key]
        return made


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
    groups = _texts_by_bucket(lengths, key_lengths, is_causal)
    buckets = _buckets(lengths, key_lengths, groups, device, is_causal)
    asking = [
        (texts, bucket.first_place, bucket.num_queries)
        for texts, parts in zip(groups, buckets, strict=True)
        for bucket in parts
    ]
    attended = [(texts, 0, first.num_key_places) for texts, (first, *_) in zip(groups, buckets, strict=True)]
    queries = _side(lengths, asking, num_heads, device)
    keys = _side(key_lengths, attended, num_heads, device)
    return Segments(lengths, key_lengths, num_heads, tuple(itertools.chain(*buckets)), queries, keys)


def _texts_by_bucket(queries: IndexArray, keys: IndexArray, is_causal: bool) -> list[IndexArray]:
    order = np.lexsort((keys, queries))
    cuts = _cheapest_cuts(queries[order], keys[order], is_causal)
    return [order[begin:end] for begin, end in itertools.pairwise(cuts)]


def _buckets(
    queries: IndexArray, keys: IndexArray, groups: list[IndexArray], device: torch.device, is_causal: bool
) -> list[list[Bucket]]:
    """Returns the buckets of each group of texts; those of a causal attention are cut where that pays."""
    buckets, first_query, first_key = [], 0, 0
    for texts in groups:
        num_queries, num_keys = int(queries[texts].max()), _up_to_multiple(int(keys[texts].max()))
        key_mask = None if is_causal else moved(_key_mask(keys[texts], num_keys), device)
        num_parts = int(_num_parts(np.array(len(texts) * num_queries * num_keys))) if is_causal else 1
        ends, parts = _ends(num_queries, num_parts), []
        # What attends to all keys comes first, see `Bucket.attends_to_all`.
        for begin, end in reversed([*itertools.pairwise([0, *ends])]):
            seen = _up_to_multiple(end) if is_causal else num_keys
            parts.append(Bucket(len(texts), begin, end - begin, seen, num_keys, key_mask, first_query, first_key))
            first_query += len(texts) * (end - begin)
        buckets.append(parts)
        first_key += len(texts) * num_keys
    return buckets


def _num_parts(pairs: IndexArray) -> IndexArray:
    """Returns into how many parts causal buckets are cut, which leaves (1 + 1 / parts) / 2 of their pairs."""
    parts: IndexArray = np.clip(np.sqrt(pairs / (2 * BUCKET_COST)).round(), 1, MAX_PARTS).astype(np.int64)
    return parts


def _ends(num_queries: int, num_parts: int) -> list[int]:
    """Returns where each part of so many queries ends; all but the last have a multiple of 16."""
    ends = {_up_to_multiple(-(-num_queries * part // num_parts)) for part in range(1, num_parts)}
    return sorted({min(end, num_queries) for end in ends} | {num_queries})


def _up_to_multiple(length: int) -> int:
    return -(-length // KEY_MULTIPLE) * KEY_MULTIPLE


def _key_mask(lengths: IndexArray, width: int) -> torch.Tensor:
    return torch.from_numpy(np.where(np.arange(width) < lengths[:, None], 0.0, -np.inf).astype(np.float32))


def _side(lengths: IndexArray, parts: list[tuple[IndexArray, int, int]], num_heads: int, device: torch.device) -> Side:
    """Returns where tokens stand.

    Args:
        lengths: tokens of each text.
        parts: of the rows: texts, the first of their places, and how many.
        num_heads: of the attention.
        device: where the indices are needed.
    """
    starts = np.cumsum(lengths) - lengths
    padded = [_padded(lengths[texts], starts[texts], first, width) for texts, first, width in parts]
    all_tokens = moved(torch.from_numpy(np.concatenate([each.ravel() for each in padded])), device)
    heads = torch.arange(num_heads, device=device)[:, None]
    by_part = torch.split(all_tokens, [each.size for each in padded])
    rows = torch.cat([torch.where(tokens < 0, -1, tokens * num_heads + heads).flatten() for tokens in by_part])
    num_rows = int(lengths.sum()) * num_heads
    # Rows that hold nothing all write behind the end.
    places = rows.new_empty(num_rows + 1).scatter_(
        0, torch.where(rows < 0, num_rows, rows), torch.arange(len(rows), device=device)
    )
    return Side(rows, rows.clamp(min=0), places[:-1])


def _padded(lengths: IndexArray, starts: IndexArray, first: int, width: int) -> IndexArray:
    """Returns the token of each place from the first on, (texts, width), -1 for none."""
    columns = np.arange(first, first + width)
    return np.where(columns < lengths[:, None], starts[:, None] + columns, -1)


def _cheapest_cuts(queries: IndexArray, keys: IndexArray, is_causal: bool) -> list[int]:
    """Returns where to cut a sorted row of texts for the fewest pairs and buckets: a shortest path."""
    num_texts = len(queries)
    costs = np.zeros(num_texts + 1)
    starts = np.zeros(num_texts + 1, dtype=np.int64)
    for end in range(1, num_texts + 1):
        widest = np.maximum.accumulate(keys[:end][::-1])
        pairs = np.arange(1, end + 1) * queries[end - 1] * widest
        parts = _num_parts(pairs) if is_causal else np.ones_like(pairs)
        total = pairs * (1 + 1 / parts) / 2 + parts * BUCKET_COST + costs[:end][::-1]
        best = int(np.argmin(total))
        costs[end], starts[end] = total[best], end - 1 - best
    cuts = [num_texts]
    while cuts[-1]:
        cuts.append(int(starts[cuts[-1]]))
    return cuts[::-1]
