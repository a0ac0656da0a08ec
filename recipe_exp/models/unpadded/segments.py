"""Where texts lie among concatenated tokens, and how attention groups texts of similar lengths."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

IndexArray = npt.NDArray[np.int64]

_BUCKET_COST = 16_384
"""Pairs of tokens that computing one more bucket costs as much as: the fixed costs of its kernels on a CPU."""


@dataclass(frozen=True)
class Bucket:
    """Texts whose attention is computed together, padded to the longest of them.

    Attributes:
        query_slots: int64, (texts, queries), the token of each place among the concatenated ones, -1 for none.
        key_slots: int64, (texts, keys), the same for what is attended to.
        key_lengths: int64, (texts,).
        tokens: int64, (tokens of the bucket,), the tokens that ask, in the order of places.
        places: int64, (tokens of the bucket,), the place of each among texts times queries.
        key_tokens: int64, the tokens that are attended to.
        key_places: int64, the place of each among texts times keys.
    """

    query_slots: torch.Tensor
    key_slots: torch.Tensor
    key_lengths: torch.Tensor
    tokens: torch.Tensor
    places: torch.Tensor
    key_tokens: torch.Tensor
    key_places: torch.Tensor


@dataclass(frozen=True)
class Segments:
    """The texts of one side of a micro-batch, concatenated, and who attends to whom.

    Attributes:
        lengths: tokens of each text, on the host.
        key_lengths: tokens of what each text attends to, on the host.
        buckets: that together hold each text once.
        is_causal: whether a token sees none after it.
    """

    lengths: IndexArray
    key_lengths: IndexArray
    buckets: tuple[Bucket, ...]
    is_causal: bool

    @property
    def longest(self) -> int:
        """Tokens of the longest text."""
        return int(self.lengths.max())

    @cached_property
    def boundaries(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Where each text begins and the last one ends, int32, (texts + 1,), and the same of what is attended to."""
        device = self.buckets[0].tokens.device
        sides = [np.concatenate([[0], np.cumsum(lengths)]) for lengths in (self.lengths, self.key_lengths)]
        moved = [torch.from_numpy(ends.astype(np.int32)).to(device, non_blocking=True) for ends in sides]
        return moved[0], moved[1]


def self_segments(lengths: IndexArray, *, is_causal: bool, device: torch.device) -> Segments:
    """Returns texts whose tokens attend to tokens of the same text.

    Args:
        lengths: (texts,) tokens of each.
        is_causal: whether a token sees none after it.
        device: where the indices are needed.
    """
    return Segments(lengths, lengths, _buckets(lengths, lengths, device), is_causal)


def cross_segments(lengths: IndexArray, key_lengths: IndexArray, *, device: torch.device) -> Segments:
    """Returns targets whose tokens attend to the source of the same example."""
    return Segments(lengths, key_lengths, _buckets(lengths, key_lengths, device), is_causal=False)


def _buckets(queries: IndexArray, keys: IndexArray, device: torch.device) -> tuple[Bucket, ...]:
    order = np.lexsort((keys, queries))
    cuts = _cheapest_cuts(queries[order], keys[order])
    starts, key_starts = _starts(queries), _starts(keys)
    return tuple(
        _bucket(order[begin:end], (queries, starts), (keys, key_starts), device)
        for begin, end in itertools.pairwise(cuts)
    )


def _bucket(
    texts: IndexArray,
    queries: tuple[IndexArray, IndexArray],
    keys: tuple[IndexArray, IndexArray],
    device: torch.device,
) -> Bucket:
    query_slots, key_slots = (_slots(lengths[texts], starts[texts]) for lengths, starts in (queries, keys))
    places, key_places = np.flatnonzero(query_slots >= 0), np.flatnonzero(key_slots >= 0)

    def moved(array: IndexArray) -> Any:
        return torch.from_numpy(array).to(device, non_blocking=True)

    return Bucket(
        query_slots=moved(query_slots),
        key_slots=moved(key_slots),
        key_lengths=moved(keys[0][texts]),
        tokens=moved(query_slots.ravel()[places]),
        places=moved(places),
        key_tokens=moved(key_slots.ravel()[key_places]),
        key_places=moved(key_places),
    )


def _slots(lengths: IndexArray, starts: IndexArray) -> IndexArray:
    columns = np.arange(int(lengths.max()))
    return np.where(columns < lengths[:, None], starts[:, None] + columns, -1)


def _starts(lengths: IndexArray) -> IndexArray:
    return np.concatenate([[0], np.cumsum(lengths)[:-1]])


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
