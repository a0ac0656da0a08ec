"""How many shingles the rows of one block share with those of another, for all pairs of rows at once.

A shingle that many rows have is a column of two dense matrices, whose product counts it for all pairs; one that few
rows have is counted for those pairs alone. Either way the counts are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from recipe_exp.data.duplicates.forest import RowArray
from recipe_exp.data.duplicates.shingles import CountArray, HashArray
from recipe_exp.data.duplicates.sketches import sketches

FloatMatrix = npt.NDArray[np.float32]

_COLUMNS_A_PRODUCT = 1024
# A column of a product costs about as much as counting its shingle for one in so many pairs.
_PAIRS_A_COLUMN = 256
_PAIRS_A_STEP = 2**18


class ShingleBlock:
    """Rows with their sets of shingles.

    Args:
        rows: (num_rows,) their numbers.
        sets: the sorted hashes of each one's shingles; none is empty.

    Attributes:
        rows: as given.
        sizes: (num_rows,) shingles of each row.
        shingles: (num_shingles,) the sorted hashes of all rows' different shingles.
        owners: (sizes.sum(),) the position of the row that each entry belongs to.
        entries: (sizes.sum(),) the position in `shingles` of each row's shingles, row after row.
    """

    def __init__(self, rows: RowArray, sets: Sequence[HashArray]) -> None:
        self.rows = rows
        self.sets = sets
        self.sizes: CountArray = np.array([len(one) for one in sets], dtype=np.int64)
        self.owners: RowArray = np.repeat(np.arange(len(sets)), self.sizes)
        values = np.concatenate(sets) if len(sets) else np.empty(0, dtype=np.uint64)
        self.shingles, self.entries = np.unique(values, return_inverse=True)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def sketches(self) -> HashArray:
        """(num_rows, SKETCH_WORDS), by which rows are told apart."""
        return sketches(self.sets)


@dataclass(frozen=True)
class _Incidence:
    """Which row has which of the shared shingles: entry by entry a row's position and a shingle's number."""

    owners: RowArray
    columns: RowArray

    def where(self, is_chosen: npt.NDArray[np.bool_]) -> _Incidence:
        """Returns the entries of the chosen columns, (num_columns,), which are numbered among themselves."""
        chosen = is_chosen[self.columns]
        return _Incidence(self.owners[chosen], (np.cumsum(is_chosen) - 1)[self.columns[chosen]])

    def counts(self, num_columns: int) -> CountArray:
        """Returns how many rows have each shingle, (num_columns,)."""
        return np.bincount(self.columns, minlength=num_columns)

    def dense(self, start: int, num_rows: int) -> FloatMatrix:
        """Returns ones and zeros for the columns from `start` on, (num_rows, _COLUMNS_A_PRODUCT)."""
        # Sums of ones are exact in 32 bits whatever order a product takes them in, so threads do not change a count.
        matrix = np.zeros((num_rows, _COLUMNS_A_PRODUCT), dtype=np.float32)
        chosen = (self.columns >= start) & (self.columns < start + _COLUMNS_A_PRODUCT)
        matrix[self.owners[chosen], self.columns[chosen] - start] = 1.0
        return matrix


def count_shared(
    block: ShingleBlock, other: ShingleBlock, least_share: float
) -> tuple[RowArray, RowArray, FloatMatrix]:
    """Counts the shingles that rows of two blocks share.

    Rows that share less than `least_share` of their own shingles with all of the other block together are left out:
    their similarity to each of its rows is lower still.

    Returns:
        The positions of the remaining rows in `block`, (n,), and in `other`, (m,), and the exact counts, (n, m).
    """
    _, in_block, in_other = np.intersect1d(block.shingles, other.shingles, assume_unique=True, return_indices=True)
    kept, left = _rows_in_common(block, in_block, least_share)
    other_kept, right = _rows_in_common(other, in_other, least_share)
    counts = np.zeros((len(kept), len(other_kept)), dtype=np.float32)
    num_pairs = left.counts(len(in_block)) * right.counts(len(in_block))
    is_common = num_pairs * _PAIRS_A_COLUMN > counts.size
    is_rare = (num_pairs > 0) & ~is_common
    _count_common(left.where(is_common), right.where(is_common), int(is_common.sum()), counts)
    _count_rare(left.where(is_rare), right.where(is_rare), int(is_rare.sum()), counts)
    return kept, other_kept, counts


def _rows_in_common(block: ShingleBlock, shared: RowArray, least_share: float) -> tuple[RowArray, _Incidence]:
    """Returns the rows that share enough, and which of the shared shingles they have.

    Rows are numbered among those returned, shingles by their position in `shared`.
    """
    number = np.full(len(block.shingles), -1, dtype=np.int64)
    number[shared] = np.arange(len(shared))
    columns = number[block.entries]
    is_shared = columns >= 0
    num_shared = np.bincount(block.owners[is_shared], minlength=len(block))
    is_kept = num_shared >= least_share * block.sizes
    place = np.cumsum(is_kept) - 1
    chosen = is_shared & is_kept[block.owners]
    return np.flatnonzero(is_kept), _Incidence(place[block.owners[chosen]], columns[chosen])


def _count_common(left: _Incidence, right: _Incidence, num_columns: int, counts: FloatMatrix) -> None:
    for start in range(0, num_columns, _COLUMNS_A_PRODUCT):
        counts += left.dense(start, counts.shape[0]) @ right.dense(start, counts.shape[1]).T


def _count_rare(left: _Incidence, right: _Incidence, num_columns: int, counts: FloatMatrix) -> None:
    """Adds one for every pair of a left and a right entry of the same column."""
    by_column = right.owners[np.argsort(right.columns, kind="stable")]
    num_right = right.counts(num_columns)
    starts = np.cumsum(num_right) - num_right
    ends = np.cumsum(num_right[left.columns])
    steps = np.searchsorted(ends, np.arange(0, int(ends[-1]) if len(ends) else 0, _PAIRS_A_STEP))
    for first, stop in pairwise([*steps.tolist(), len(ends)]):
        columns = left.columns[first:stop]
        lengths = num_right[columns]
        within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        others = by_column[np.repeat(starts[columns], lengths) + within]
        np.add.at(counts, (np.repeat(left.owners[first:stop], lengths), others), np.float32(1.0))
