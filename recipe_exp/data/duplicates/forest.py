"""Disjoint sets of rows (union-find), each known by its smallest row."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

RowArray: TypeAlias = npt.NDArray[np.signedinteger[Any]]


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
        order = np.argsort(keys, kind="stable")
        starts, sizes = runs_of_equal(keys[order])
        for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
            self.unite_all(order[start : start + size])

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


def runs_of_equal(ordered: npt.NDArray[np.generic]) -> tuple[RowArray, RowArray]:
    """Returns where the runs of two and more equal values begin, and how long each is."""
    if not len(ordered):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    sizes = np.diff(starts, append=len(ordered))
    return starts[sizes > 1], sizes[sizes > 1]
