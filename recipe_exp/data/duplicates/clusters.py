"""Clusters of near-duplicates: rows that share a key are compared by their exact similarity, and united.

Rows that share a key in a band are a bucket of it. In a bucket of at most `MAX_COMPARED_ROWS` rows every pair is
compared whose rows are in different clusters, by their texts where sketches do not tell them apart. Larger buckets
come from identical, boilerplate or templated texts, whose pairs are too many to compare one by one: their rows form
crowds, which `crowds` compares in blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recipe_exp.data.duplicates.closest import SimilarPair
from recipe_exp.data.duplicates.comparison import Comparison, Progress, Rows
from recipe_exp.data.duplicates.crowds import compare_crowds
from recipe_exp.data.duplicates.forest import Forest, Groups, RowArray, groups_of_equal
from recipe_exp.data.duplicates.shingles import HashArray
from recipe_exp.data.duplicates.signatures import NO_WORDS, NUM_BANDS

THRESHOLD = 0.8
MAX_COMPARED_ROWS = 16
_PAIRS_AT_ONCE = 2**16


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


def find_clusters(rows: Rows, progress: Progress, threshold: float = THRESHOLD) -> Clusters:
    """Returns the clusters: rows with one exact key are together, and so are near-duplicates that were found.

    A row that is a near-duplicate of a held-out row is in its cluster, but for the share of 3e-6 of such pairs at the
    threshold that have no key in common. Two other rows may be missed in a crowd too (see `crowds`). Nothing else
    decides the result: neither threads nor the sizes of chunks.

    Args:
        rows: all of them.
        progress: called now and then with how many steps are done, of how many; the total grows when crowds are
            found. What it raises ends the search.
        threshold: the least Jaccard similarity of near-duplicates; how many are missed is stated for 0.8 and more.
    """
    comparison = Comparison(rows, threshold, progress)
    comparison.clusters.unite_equal(rows.exact_keys.band(0))
    crowds = Forest(len(rows))
    comparison.expect(NUM_BANDS)
    for number in range(NUM_BANDS):
        _compare_band(rows.keys.band(number), comparison, crowds)
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
    small = _spread_over(crowds, undecided.where(undecided.sizes <= MAX_COMPARED_ROWS))
    for size in range(2, MAX_COMPARED_ROWS + 1):
        starts = small.starts[small.sizes == size]
        one, other = np.triu_indices(size, k=1)
        num_buckets = max(_PAIRS_AT_ONCE // len(one), 1)
        for stretch in range(0, len(starts), num_buckets):
            rows = small.rows[starts[stretch : stretch + num_buckets, None] + np.arange(size)]
            first, second = rows[:, one].ravel(), rows[:, other].ravel()
            is_apart = crowds.roots_of(first) != crowds.roots_of(second)
            comparison.compare(first[is_apart], second[is_apart])


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
