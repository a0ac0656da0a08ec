"""What comparing texts shares between small buckets and crowds: the texts, what is known, and what was counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from recipe_exp.data.duplicates.closest import ClosestPairs
from recipe_exp.data.duplicates.forest import Forest, RowArray
from recipe_exp.data.duplicates.key_file import KeyFile
from recipe_exp.data.duplicates.shingles import HashArray, shingle_sets, similarity
from recipe_exp.data.duplicates.sketches import most_similar

Progress: TypeAlias = Callable[[int, int], None]

_MAX_FETCHED_ROWS = 1024
_MEMORY_BITS = 20
_SPREADING = np.uint64(0x9E3779B97F4A7C15)
# Bounds and similarities are quotients of small numbers: they differ by more, or are equal.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Rows:
    """What is known of the rows that are compared.

    Attributes:
        texts: the text of each, read at random.
        keys: their `signatures`.
        sketches: their `sketches`.
        exact_keys: one for each row; rows with equal ones are duplicates without looking.
        is_held_out: (num_rows,) whether a row belongs to validation or test.

    Raises:
        ValueError: they speak of different numbers of rows.
    """

    texts: Sequence[str]
    keys: KeyFile
    sketches: KeyFile
    exact_keys: KeyFile
    is_held_out: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        sized: Sequence[Sized] = (self.texts, self.keys, self.sketches, self.exact_keys, self.is_held_out)
        sizes = [len(one) for one in sized]
        if len(set(sizes)) > 1:
            raise ValueError(f"texts, keys, sketches, exact_keys and is_held_out hold {sizes} rows")

    def __len__(self) -> int:
        return len(self.texts)


class Comparison:
    """Compares rows by the exact similarity of their texts, and unites those that are similar enough.

    Args:
        rows: all of them.
        threshold: the least Jaccard similarity of near-duplicates.
        progress: called now and then with how much is done, of how much.

    Attributes:
        clusters: the rows united so far.
        closest: the most similar pairs below the threshold across the split.
        num_near_pairs: pairs at or above the threshold that were seen.
        num_compared_pairs: pairs whose similarity was computed.
    """

    def __init__(self, rows: Rows, threshold: float, progress: Progress) -> None:
        self.is_held_out = rows.is_held_out
        self.threshold = threshold
        self.clusters = Forest(len(rows))
        self.closest = ClosestPairs(self.clusters.find)
        self.num_near_pairs = self.num_compared_pairs = 0
        self._texts = rows.texts
        self._sketches = rows.sketches
        self._progress = progress
        self._done = self._total = 0
        self._looked_at = np.zeros(2**_MEMORY_BITS, dtype=np.uint64)

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

    def compare(self, first: RowArray, second: RowArray) -> None:
        """Unites rows that are near-duplicates; of what is known already nothing is read.

        Args:
            first: (num_pairs,) rows.
            second: (num_pairs,) the other row of each pair.
        """
        is_open = self.clusters.roots_of(first) != self.clusters.roots_of(second)
        pairs, places = self._memory_of(first, second)
        is_open &= self._looked_at[places] != pairs
        first, second, pairs, places = first[is_open], second[is_open], pairs[is_open], places[is_open]
        if not len(first):
            return
        rows, position = np.unique(np.stack((first, second)), return_inverse=True)
        known = self._sketches.rows(rows.tolist())
        left, right = position.reshape(2, -1)
        bound = most_similar(known[left], known[right])
        is_across = self.is_held_out[first] != self.is_held_out[second]
        is_wanted = (bound >= self.threshold - _ROUNDING) | (is_across & (bound > self.closest.floor))
        self._looked_at[places] = pairs
        self._compare_texts(first[is_wanted].tolist(), second[is_wanted].tolist())

    def _compare_texts(self, first: list[int], second: list[int]) -> None:
        start = 0
        while start < len(first):
            rows: set[int] = set()
            stop = start
            while stop < len(first) and len(rows) < _MAX_FETCHED_ROWS:
                rows.update((first[stop], second[stop]))
                stop += 1
            sets = dict(zip(rows, self.sets_of(rows), strict=True))
            for one, other in zip(first[start:stop], second[start:stop], strict=True):
                if self.clusters.find(one) != self.clusters.find(other):
                    self.num_compared_pairs += 1
                    self.record(one, other, similarity(sets[one], sets[other]))
            self.report()
            start = stop

    def record(self, first: int, second: int, value: float) -> bool:
        """Takes note of the similarity of a pair, and returns whether it made them one cluster."""
        if value >= self.threshold:
            self.num_near_pairs += 1
            self.clusters.unite(first, second)
            return True
        if self.is_held_out[first] != self.is_held_out[second]:
            self.closest.add(first, second, value)
        return False

    def _memory_of(self, first: RowArray, second: RowArray) -> tuple[HashArray, HashArray]:
        """Returns a number of its own for each pair, never 0, and a place for it that a later pair may take."""
        pairs = np.maximum(first, second).astype(np.uint64) * np.uint64(len(self.is_held_out))
        pairs += np.minimum(first, second).astype(np.uint64)
        return pairs, pairs * _SPREADING >> np.uint64(64 - _MEMORY_BITS)
