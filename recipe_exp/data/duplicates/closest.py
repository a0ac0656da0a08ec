"""The most similar pairs of rows that clustering left on the two sides of the split."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

MAX_KEPT = 1000


class SimilarPair(NamedTuple):
    """Two rows, the smaller one first, and the Jaccard similarity of their texts."""

    first: int
    second: int
    similarity: float


class ClosestPairs:
    """Keeps the most similar of the pairs it is shown.

    Pairs whose clusters grow together later are passed over in the end. Of the others the best are right unless over a
    thousand better ones were passed over.

    Args:
        find: returns what stands for the cluster of a row at the time it is asked.
    """

    def __init__(self, find: Callable[[int], int]) -> None:
        self._find = find
        self._similarities: dict[tuple[int, int], float] = {}
        self.floor = 0.0
        """A pair that is no more similar than this need not be shown."""

    def add(self, first: int, second: int, similarity: float) -> None:
        """Shows a pair of two clusters."""
        if similarity <= self.floor:
            return
        self._similarities[min(first, second), max(first, second)] = similarity
        if len(self._similarities) >= 2 * MAX_KEPT:
            best = self.best()
            self._similarities = {(pair.first, pair.second): pair.similarity for pair in best}
            self.floor = best[-1].similarity if len(best) == MAX_KEPT else 0.0

    def best(self) -> list[SimilarPair]:
        """Returns at most `MAX_KEPT` pairs of different clusters, the most similar first."""
        find = self._find
        apart = [
            SimilarPair(first, second, similarity)
            for (first, second), similarity in self._similarities.items()
            if find(first) != find(second)
        ]
        return sorted(apart, key=lambda pair: (-pair.similarity, pair.first, pair.second))[:MAX_KEPT]
