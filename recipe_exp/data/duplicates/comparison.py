"""What comparing texts shares between small buckets and crowds: the texts, what is known, and what was counted."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from recipe_exp.data.duplicates.closest import ClosestPairs
from recipe_exp.data.duplicates.forest import Forest
from recipe_exp.data.duplicates.shingles import HashArray, shingle_sets, similarity

Progress: TypeAlias = Callable[[int, int], None]

MAX_FETCHED_ROWS = 1024
_MAX_CACHED_SETS = 2 * MAX_FETCHED_ROWS
_MEMORY_BITS = 20
_SPREADING = 0x9E3779B97F4A7C15
_COMPARISONS_BETWEEN_REPORTS = 1000


class Comparison:
    """Compares rows by the exact similarity of their texts, and unites those that are similar enough.

    Args:
        texts: one text a row, read at random.
        is_held_out: (num_rows,) whether a row belongs to validation or test.
        threshold: the least Jaccard similarity of near-duplicates.
        progress: called now and then with how much is done, of how much.

    Attributes:
        clusters: the rows united so far.
        closest: the most similar pairs below the threshold across the split.
        num_near_pairs: pairs at or above the threshold that were seen.
        num_compared_pairs: pairs whose similarity was computed.
    """

    def __init__(
        self, texts: Sequence[str], is_held_out: npt.NDArray[np.bool_], threshold: float, progress: Progress
    ) -> None:
        self.is_held_out = is_held_out
        self.threshold = threshold
        self.clusters = Forest(len(texts))
        self.closest = ClosestPairs(self.clusters.find)
        self.num_near_pairs = self.num_compared_pairs = 0
        self._texts = texts
        self._progress = progress
        self._done = self._total = 0
        self._sets: OrderedDict[int, HashArray] = OrderedDict()
        self._dissimilar = np.zeros(2**_MEMORY_BITS, dtype=np.uint64)

    def expect(self, num_steps: int) -> None:
        """Adds to the steps that progress is reported of."""
        self._total += num_steps
        self.report()

    def report(self, num_steps: int = 0) -> None:
        """Adds to the steps that are done, and calls `progress`, which may raise to stop."""
        self._done += num_steps
        self._progress(self._done, self._total)

    def sets_of(self, rows: Iterable[int]) -> list[HashArray]:
        """Returns the shingles of many rows, which are read and not kept."""
        return shingle_sets(self._texts[row] for row in rows)

    def compare(self, first: int, second: int) -> None:
        """Unites two rows that were fetched if their texts are near-duplicates, unless that is known already."""
        if not self.is_open(first, second):
            return
        self.num_compared_pairs += 1
        if self.num_compared_pairs % _COMPARISONS_BETWEEN_REPORTS == 0:
            self.report()
        value = similarity(self._sets[first], self._sets[second])
        if not self.record(first, second, value):
            pair, place = self._memory_of(first, second)
            self._dissimilar[place] = pair

    def is_open(self, first: int, second: int) -> bool:
        """Returns whether it is not known yet, or was forgotten, if two rows are near-duplicates."""
        if self.clusters.find(first) == self.clusters.find(second):
            return False
        pair, place = self._memory_of(first, second)
        return int(self._dissimilar[place]) != pair

    def fetch(self, rows: Collection[int]) -> None:
        """Reads the shingles of rows that are compared next, at most `MAX_FETCHED_ROWS`, all at once to save time."""
        missing = [row for row in rows if row not in self._sets]
        for row in rows:
            if row in self._sets:
                self._sets.move_to_end(row)
        self._sets.update(zip(missing, self.sets_of(missing), strict=True))
        while len(self._sets) > _MAX_CACHED_SETS:
            self._sets.popitem(last=False)

    def record(self, first: int, second: int, value: float) -> bool:
        """Takes note of the similarity of a pair, and returns whether it made them one cluster."""
        if value >= self.threshold:
            self.num_near_pairs += 1
            self.clusters.unite(first, second)
            return True
        if self.is_held_out[first] != self.is_held_out[second]:
            self.closest.add(first, second, value)
        return False

    def _memory_of(self, first: int, second: int) -> tuple[int, int]:
        """Returns a number of its own for the pair, never 0, and a place for it that a later pair may take."""
        pair = max(first, second) * len(self.is_held_out) + min(first, second)
        return pair, (pair * _SPREADING >> (64 - _MEMORY_BITS)) & (2**_MEMORY_BITS - 1)
