"""Disjoint sets of rows (union-find), each known by its smallest row, and rows with equal keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

RowArray: TypeAlias = npt.NDArray[np.signedinteger[Any]]

# So many keys are sorted at a time, that memory for it does not grow with the rows.
_SORTED_KEYS = 2**18


@dataclass(frozen=True)
class Groups:
    """Sets of two and more rows: `rows[start : start + size]` are the rows of one, in order."""

    rows: RowArray
    starts: RowArray
    sizes: RowArray

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[RowArray]:
        for start, size in zip(self.starts.tolist(), self.sizes.tolist(), strict=True):
            yield self.rows[start : start + size]

    def where(self, is_chosen: npt.NDArray[np.bool_]) -> Groups:
        """Returns the chosen ones, (num_groups,)."""
        return Groups(self.rows, self.starts[is_chosen], self.sizes[is_chosen])


class Forest:
    """Sets that begin with one row each and only grow. A set's root is its smallest row, in whatever order it grew.

    Args:
        num_rows: the rows are numbered from 0; fewer than 2^31.
    """

    def __init__(self, num_rows: int) -> None:
        self._parent: RowArray = np.arange(num_rows, dtype=np.int32)

    def find(self, row: int) -> int:
        """Returns the root of the row's set."""
        parent = self._parent
        above = int(parent[row])
        while above != row:
            higher = int(parent[above])
            parent[row] = higher
            row, above = above, higher
        return row

    def unite(self, first: int, second: int) -> None:
        """Makes one set of two rows' sets."""
        one, other = self.find(first), self.find(second)
        self._parent[max(one, other)] = min(one, other)

    def unite_all(self, rows: RowArray) -> None:
        """Makes one set of all the rows' sets."""
        roots = self.roots_of(rows)
        self._parent[roots] = roots.min()

    def unite_equal(self, keys: npt.NDArray[np.uint64]) -> None:
        """Makes one set of the sets of all rows with the same key, (num_rows,)."""
        for rows in groups_of_equal(keys):
            self.unite_all(rows)

    def roots_of(self, rows: RowArray) -> RowArray:
        """Returns the root of every given row, in the shape of `rows`."""
        roots = self._parent[rows]
        while True:
            higher = self._parent[roots]
            if np.array_equal(higher, roots):
                return roots
            roots = higher

    def labels(self) -> RowArray:
        """Returns every row's root, (num_rows,), and shortens all paths on the way; it is not to be changed."""
        while True:
            higher = self._parent[self._parent]
            if np.array_equal(higher, self._parent):
                return higher
            self._parent = higher


def groups_of_equal(keys: npt.NDArray[np.uint64]) -> Groups:
    """Returns the rows with equal keys, (num_rows,), ordered by their keys."""
    num_stretches = len(keys) // _SORTED_KEYS + 1
    bounds = [stretch * 2**64 // num_stretches for stretch in range(num_stretches + 1)]
    rows, starts, sizes, num_rows = [], [], [], 0
    for low, high in pairwise(bounds):
        found = np.flatnonzero((keys >= np.uint64(low)) & (keys <= np.uint64(high - 1)))
        # A stable sort leaves the rows of one key in order.
        ordered = found[np.argsort(keys[found], kind="stable")]
        is_first = np.ones(len(ordered), dtype=np.bool_)
        np.not_equal(keys[ordered[1:]], keys[ordered[:-1]], out=is_first[1:])
        is_single = is_first & np.append(is_first[1:], True)
        shared_first = np.flatnonzero(is_first[~is_single])
        rows.append(ordered[~is_single].astype(np.int32))
        starts.append(shared_first + num_rows)
        sizes.append(np.diff(shared_first, append=len(rows[-1])))
        num_rows += len(rows[-1])
    return Groups(np.concatenate(rows), np.concatenate(starts), np.concatenate(sizes))


def groups_of_labels(labels: RowArray) -> Groups:
    """Returns the sets of more than one row, given by every row's root, (num_rows,), and ordered by it."""
    others = np.flatnonzero(labels != np.arange(len(labels), dtype=labels.dtype))
    is_shared = np.zeros(len(labels), dtype=np.bool_)
    is_shared[others] = True
    is_shared[labels[others]] = True
    rows = np.flatnonzero(is_shared).astype(np.int32)
    rows = rows[np.argsort(labels[rows], kind="stable")]
    starts = np.flatnonzero(labels[rows] == rows)
    return Groups(rows, starts, np.diff(starts, append=len(rows)))
