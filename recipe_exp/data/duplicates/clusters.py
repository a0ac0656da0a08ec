"""Clusters of near-duplicates: rows that share a key are compared by their exact similarity, and united.

Rows that share a key in a band are a bucket of it. In a bucket of at most `MAX_COMPARED_ROWS` rows every pair is
compared whose rows are in different clusters. Larger buckets come from identical, boilerplate or templated texts, whose
pairs are too many to compare one by one: their rows form crowds, which `crowds` compares in blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, combinations

import numpy as np
import numpy.typing as npt

from recipe_exp.data.duplicates.closest import SimilarPair
from recipe_exp.data.duplicates.comparison import MAX_FETCHED_ROWS, Comparison, Progress
from recipe_exp.data.duplicates.crowds import compare_crowds
from recipe_exp.data.duplicates.forest import Forest, Groups, RowArray, groups_of_equal
from recipe_exp.data.duplicates.key_file import KeyFile
from recipe_exp.data.duplicates.shingles import HashArray
from recipe_exp.data.duplicates.signatures import NO_WORDS, NUM_BANDS

THRESHOLD = 0.8
MAX_COMPARED_ROWS = 16


@dataclass(frozen=True)
class Clusters:
    """Which rows are near-duplicates of each other.

    Attributes:
        labels: (num_rows,) the smallest row of each row's cluster; its own number if it is alone.
        num_near_pairs: pairs of rows at or above the threshold among those compared.
        num_compared_pairs: pairs of rows whose similarity was computed.
        closest_across_split: the most similar pairs of one held-out and one other row that are not in one cluster,
            the most similar first, at most `MAX_KEPT` of `closest`: some of them may be left out later.
    """

    labels: RowArray
    num_near_pairs: int
    num_compared_pairs: int
    closest_across_split: tuple[SimilarPair, ...]


def find_clusters(
    keys: KeyFile,
    texts: Sequence[str],
    is_held_out: npt.NDArray[np.bool_],
    exact_keys: KeyFile,
    progress: Progress,
    threshold: float = THRESHOLD,
) -> Clusters:
    """Returns the clusters: rows with one exact key are together, and so are near-duplicates that were found.

    A row that is a near-duplicate of a held-out row is in its cluster, but for the share of 3e-6 of such pairs at the
    threshold that have no key in common. Two other rows may be missed in a crowd too (see `crowds`). Nothing else
    decides the result: neither threads nor the sizes of chunks.

    Args:
        keys: the rows' `signatures`.
        texts: the rows' texts, read at random.
        is_held_out: (num_rows,) whether a row belongs to validation or test.
        exact_keys: one for each row; rows with equal ones are duplicates without looking.
        progress: called now and then with how many steps are done, of how many; the total grows when crowds are
            found. What it raises ends the search.
        threshold: the least Jaccard similarity of near-duplicates; how many are missed is stated for 0.8 and more.

    Raises:
        ValueError: the arguments speak of different numbers of rows.
    """
    if not len(keys) == len(texts) == len(is_held_out) == len(exact_keys):
        sizes = (len(keys), len(texts), len(is_held_out), len(exact_keys))
        raise ValueError(f"keys, texts, is_held_out and exact_keys hold {sizes} rows")
    comparison = Comparison(texts, is_held_out, threshold, progress)
    comparison.clusters.unite_equal(exact_keys.band(0))
    crowds = Forest(len(texts))
    comparison.expect(NUM_BANDS)
    for number in range(NUM_BANDS):
        _compare_band(keys.band(number), comparison, crowds)
        comparison.report(1)
    compare_crowds(crowds, comparison)
    return Clusters(
        labels=comparison.clusters.labels(),
        num_near_pairs=comparison.num_near_pairs,
        num_compared_pairs=comparison.num_compared_pairs,
        closest_across_split=tuple(comparison.closest.best()),
    )


def _compare_band(band_keys: HashArray, comparison: Comparison, crowds: Forest) -> None:
    buckets = groups_of_equal(band_keys)
    buckets = buckets.where(band_keys[buckets.rows[buckets.starts]] != NO_WORDS)
    # A crowd's rows are compared later, all at once, so the crowds of this band are known before its small buckets.
    undecided = _spread_over(crowds, _spread_over(comparison.clusters, buckets))
    for rows in undecided.where(undecided.sizes > MAX_COMPARED_ROWS):
        crowds.unite_all(rows)
    pending: list[tuple[int, int]] = []
    rows_of_pending: set[int] = set()
    for rows in _spread_over(crowds, undecided.where(undecided.sizes <= MAX_COMPARED_ROWS)):
        if len(rows_of_pending) + len(rows) > MAX_FETCHED_ROWS:
            _compare_all(pending, rows_of_pending, comparison)
            pending, rows_of_pending = [], set()
        found = [
            (first, second)
            for first, second in combinations(rows.tolist(), 2)
            if crowds.find(first) != crowds.find(second) and comparison.is_open(first, second)
        ]
        pending += found
        rows_of_pending.update(chain.from_iterable(found))
    _compare_all(pending, rows_of_pending, comparison)


def _spread_over(forest: Forest, buckets: Groups) -> Groups:
    """Returns the buckets whose rows are not all in one set."""
    if not len(buckets):
        return buckets
    roots = forest.roots_of(buckets.rows)
    bounds = np.stack((buckets.starts, buckets.starts + buckets.sizes), axis=1).ravel()
    # Every other stretch lies between two buckets; the last bound may be the end of the array.
    bounds = bounds[:-1] if bounds[-1] == len(roots) else bounds
    least, most = np.minimum.reduceat(roots, bounds)[::2], np.maximum.reduceat(roots, bounds)[::2]
    return buckets.where(least != most)


def _compare_all(pairs: list[tuple[int, int]], rows: set[int], comparison: Comparison) -> None:
    comparison.fetch(rows)
    for first, second in pairs:
        comparison.compare(first, second)
