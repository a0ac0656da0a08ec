"""Which pairs of rows of two blocks may be similar at all, found by the rarest of their shingles.

Two sets with a Jaccard similarity of t or more share at least ceil(t * n) of the n elements of either. So whatever
order the elements are in, the first n - ceil(t * n) + 1 of each, its prefix, have one in common (Chaudhuri, Ganti and
Kaushik, "A primitive operator for similarity joins in data cleaning", 2006). Ordered from rare to frequent, what a
template puts into all its texts is in no prefix. Most of the pairs that are left are told apart by their sketches.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from recipe_exp.data.duplicates.forest import RowArray
from recipe_exp.data.duplicates.overlap import ShingleBlock
from recipe_exp.data.duplicates.shingles import CountArray
from recipe_exp.data.duplicates.sketches import most_similar

SimilarityArray = npt.NDArray[np.float64]

_ENTRIES_A_STEP = 2**20
# Sizes are whole numbers, so no share of one is this near to the next one by more than rounding.
_ROUNDING = 1e-9


class PrefixIndex:
    """A block whose rows are found by the shingles of their prefixes.

    Args:
        block: the rows; none of their sets is empty.
        least: the least similarity that has to be found.
    """

    def __init__(self, block: ShingleBlock, least: float) -> None:
        self.block = block
        self.least = least
        num_rows_with = np.bincount(block.entries, minlength=len(block.shingles))
        self._rank: RowArray = np.empty(len(block.shingles), dtype=np.int64)
        self._rank[np.argsort(num_rows_with, kind="stable")] = np.arange(len(block.shingles))
        owners, ranks = self._prefix(block, self._rank[block.entries])
        order = np.argsort(ranks, kind="stable")
        self._owners = owners[order]
        self._num_with = np.bincount(ranks, minlength=len(block.shingles))
        self._starts = np.cumsum(self._num_with) - self._num_with

    def candidates(self, other: ShingleBlock, max_pairs: int) -> tuple[RowArray, RowArray] | None:
        """Returns the positions in `other` and in the block of all pairs that may be similar; None if they are many.

        Args:
            other: rows to look for.
            max_pairs: how many times a pair may be named by one of its shingles; more are many.
        """
        place = np.searchsorted(self.block.shingles, other.shingles)
        place[place == len(self.block.shingles)] = 0
        # What no row of the block has comes before all that one has, and counts towards the prefix.
        rank = np.where(self.block.shingles[place] == other.shingles, self._rank[place], -1)
        owners, ranks = self._prefix(other, rank[other.entries])
        lengths = self._num_with[ranks]
        if int(lengths.sum()) > max_pairs:
            return None
        within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        found = self._owners[np.repeat(self._starts[ranks], lengths) + within]
        pairs = np.unique(np.repeat(owners, lengths) * len(self.block) + found)
        left, right = np.divmod(pairs, len(self.block))
        fits = most_similar(other.sketches[left], self.block.sketches[right]) >= self.least - _ROUNDING
        return left[fits], right[fits]

    def _prefix(self, block: ShingleBlock, ranks: RowArray) -> tuple[RowArray, RowArray]:
        """Returns owner and rank of the entries in the rows' prefixes, without those of rank -1."""
        # One number to sort by: entries are in the order of their owners already.
        order = np.argsort(block.owners * (len(self._rank) + 1) + ranks, kind="stable")
        lengths = block.sizes - np.ceil(self.least * block.sizes - _ROUNDING).astype(np.int64) + 1
        position = np.arange(len(order)) - np.repeat(np.cumsum(block.sizes) - block.sizes, block.sizes)
        chosen = order[(position < lengths[block.owners]) & (ranks[order] >= 0)]
        return block.owners[chosen], ranks[chosen]


def similarities_of(block: ShingleBlock, rows: RowArray, other: ShingleBlock, other_rows: RowArray) -> SimilarityArray:
    """Returns the exact similarity of each pair, (num_pairs,), of positions in two blocks."""
    place = np.searchsorted(block.shingles, other.shingles)
    place[place == len(block.shingles)] = 0
    number = np.where(block.shingles[place] == other.shingles, place, -1)
    values, other_values = block.entries, number[other.entries]
    num_shared = np.zeros(len(rows), dtype=np.int64)
    num_entries = block.sizes[rows] + other.sizes[other_rows]
    for start, stop in _stretches(num_entries):
        keys = np.concatenate(
            (
                _keys(block, rows[start:stop], values, len(block.shingles)),
                _keys(other, other_rows[start:stop], other_values, len(block.shingles)),
            )
        )
        keys.sort()
        pairs = keys[1:][keys[1:] == keys[:-1]] // len(block.shingles)
        num_shared[start:stop] = np.bincount(pairs, minlength=stop - start)
    result: SimilarityArray = num_shared / (num_entries - num_shared)
    return result


def _stretches(num_entries: CountArray) -> Iterator[tuple[int, int]]:
    """Yields bounds between which so many entries are sorted at a time."""
    ends = np.cumsum(num_entries)
    total = int(ends[-1]) if len(ends) else 0
    bounds = np.searchsorted(ends, np.arange(0, total, _ENTRIES_A_STEP)).tolist()
    yield from pairwise([*bounds, len(ends)])


def _keys(block: ShingleBlock, rows: RowArray, values: RowArray, num_values: int) -> RowArray:
    """Returns for every entry of the rows a number of its value, those of -1 left out, and its place among the rows."""
    lengths = block.sizes[rows]
    starts = (np.cumsum(block.sizes) - block.sizes)[rows]
    positions = np.arange(int(lengths.sum())) + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    found = values[positions]
    keys: RowArray = (np.repeat(np.arange(len(rows)), lengths) * num_values + found)[found >= 0]
    return keys
