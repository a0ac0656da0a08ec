"""Crowds: rows that share their keys with many, compared in blocks, by the rarest shingles or by matrix products.

Comparing all pairs of a crowd takes time with the square of its rows, so it is done where it is owed alone: between its
held-out rows and all its rows. Otherwise a crowd passes by in blocks, in which all pairs are compared. A block takes up
to `MAX_REPRESENTATIVES` rows of earlier ones along, one from each of the clusters with the most rows so far; so work
grows with the number of rows, each is compared with one row of every large cluster, and what may be missed are two
training rows of different blocks that are near-duplicates of each other and of no large cluster or held-out row.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from recipe_exp.data.duplicates.comparison import Comparison
from recipe_exp.data.duplicates.forest import Forest, RowArray, groups_of_labels
from recipe_exp.data.duplicates.overlap import ShingleBlock, count_shared
from recipe_exp.data.duplicates.prefixes import PrefixIndex, similarities_of
from recipe_exp.data.duplicates.shingles import HashArray

BLOCK_ROWS = 1024
MAX_REPRESENTATIVES = 256

# The shingles of as many held-out rows are in memory at a time; every other row of the crowd is read once for them.
_MAX_HELD_ROWS = 8192
_MAX_CLOSEST_PER_BLOCK = 32
# Below the threshold similarities are for the report alone, and low ones of crowds are not worth their products.
_LEAST_REPORTED = 0.7
# All pairs of two blocks in one product cost about as much as one in so many of them looked at by itself.
_PAIRS_A_CANDIDATE = 8


def compare_crowds(crowds: Forest, comparison: Comparison) -> None:
    """Compares the rows of every set of `crowds` that has more than one."""
    members = groups_of_labels(crowds.labels())
    comparison.expect(len(members.rows))
    for rows in members:
        _compare_in_passing(rows, comparison)
        if len(rows) > BLOCK_ROWS:
            _compare_with_held_out(rows, comparison)


def _compare_in_passing(rows: RowArray, comparison: Comparison) -> None:
    carried = rows[:0]
    carried_sets: list[HashArray] = []
    for block_rows in _blocks(rows):
        sets = carried_sets + comparison.sets_of(block_rows.tolist())
        block = ShingleBlock(np.concatenate((carried, block_rows)), sets)
        _compare_blocks(block, PrefixIndex(block, _LEAST_REPORTED), comparison)
        chosen = _representatives(block, comparison.clusters)
        carried, carried_sets = block.rows[chosen], [sets[position] for position in chosen.tolist()]
        comparison.report(len(block_rows))


def _representatives(block: ShingleBlock, clusters: Forest) -> RowArray:
    """Returns the position of one row from each of the clusters with the most rows in the block, the oldest first."""
    _, first, counts = np.unique(clusters.roots_of(block.rows), return_index=True, return_counts=True)
    largest = np.argsort(-counts, kind="stable")[:MAX_REPRESENTATIVES]
    return np.sort(first[largest])


def _compare_with_held_out(rows: RowArray, comparison: Comparison) -> None:
    held = rows[comparison.is_held_out[rows]]
    # Rows of one cluster side by side make blocks of one cluster, which spare each other.
    held = held[np.argsort(comparison.clusters.roots_of(held), kind="stable")]
    for start in range(0, len(held), _MAX_HELD_ROWS):
        held_rows = held[start : start + _MAX_HELD_ROWS]
        held_block = ShingleBlock(held_rows, comparison.sets_of(held_rows.tolist()))
        index = PrefixIndex(held_block, _LEAST_REPORTED)
        for block_rows in _blocks(rows):
            others = _outside(block_rows, held_rows, comparison.clusters)
            if len(others):
                block = ShingleBlock(others, comparison.sets_of(others.tolist()))
                _compare_blocks(block, index, comparison)
                comparison.report()


def _outside(rows: RowArray, held_rows: RowArray, clusters: Forest) -> RowArray:
    """Returns the rows that are not in the one cluster of all the held-out ones, if they are of one."""
    roots = np.unique(clusters.roots_of(held_rows))
    return rows if len(roots) > 1 else rows[clusters.roots_of(rows) != roots[0]]


def _compare_blocks(block: ShingleBlock, index: PrefixIndex, comparison: Comparison) -> None:
    """Compares the rows of two blocks, or of one with itself, that are in different clusters."""
    find = comparison.clusters.roots_of
    other = index.block
    if len(np.unique(np.concatenate((find(block.rows), find(other.rows))))) == 1:
        return
    found = index.candidates(block, len(block) * len(other) // _PAIRS_A_CANDIDATE)
    if found is not None:
        _compare_pairs(block, other, *found, comparison)
        return
    if block is other:
        _compare_all_pairs(block, block, comparison)
        return
    for start in range(0, len(other), BLOCK_ROWS):
        stretch = slice(start, start + BLOCK_ROWS)
        _compare_all_pairs(block, ShingleBlock(other.rows[stretch], other.sets[stretch]), comparison)


def _compare_pairs(
    block: ShingleBlock, other: ShingleBlock, left: RowArray, right: RowArray, comparison: Comparison
) -> None:
    """Compares some pairs of positions in two blocks."""
    find = comparison.clusters.roots_of
    is_apart = find(block.rows[left]) != find(other.rows[right])
    if block is other:
        is_apart &= left < right
    left, right = left[is_apart], right[is_apart]
    rows, other_rows = block.rows[left], other.rows[right]
    similarities = similarities_of(block, left, other, right)
    is_near = similarities >= comparison.threshold
    comparison.num_compared_pairs += len(left)
    comparison.num_near_pairs += int(np.count_nonzero(is_near))
    for first, second in zip(rows[is_near].tolist(), other_rows[is_near].tolist(), strict=True):
        comparison.clusters.unite(first, second)
    is_across = comparison.is_held_out[rows] != comparison.is_held_out[other_rows]
    similarities[is_near | ~is_across] = 0.0
    for (pair,) in highest_positions(similarities, comparison.closest.floor):
        comparison.closest.add(int(rows[pair]), int(other_rows[pair]), float(similarities[pair]))


def _compare_all_pairs(block: ShingleBlock, other: ShingleBlock, comparison: Comparison) -> None:
    """Compares every row of one block with every row of the other."""
    find = comparison.clusters.roots_of
    kept, other_kept, shared = count_shared(block, other, _LEAST_REPORTED)
    rows, other_rows = block.rows[kept], other.rows[other_kept]
    is_apart = find(rows)[:, None] != find(other_rows)[None, :]
    if block is other:
        is_apart = np.triu(is_apart)
    similarities = shared / (block.sizes[kept][:, None] + other.sizes[other_kept][None, :] - shared)
    is_near = is_apart & (similarities >= comparison.threshold)
    comparison.num_compared_pairs += int(np.count_nonzero(is_apart))
    comparison.num_near_pairs += int(np.count_nonzero(is_near))
    for position in np.flatnonzero(is_near.any(axis=1)).tolist():
        near = other_rows[is_near[position]]
        comparison.clusters.unite_all(np.append(near, rows[position]))
    is_across = comparison.is_held_out[rows][:, None] != comparison.is_held_out[other_rows][None, :]
    similarities[is_near | ~is_apart | ~is_across] = 0.0
    for first, second in highest_positions(similarities, comparison.closest.floor):
        comparison.closest.add(int(rows[first]), int(other_rows[second]), float(similarities[first, second]))


def highest_positions(similarities: npt.NDArray[np.float64], floor: float) -> list[tuple[int, ...]]:
    """Returns the positions of the highest values above the floor, as many as may matter; of equal ones the first."""
    values = similarities.ravel()
    found = np.flatnonzero(values > floor)
    if len(found) > _MAX_CLOSEST_PER_BLOCK:
        least = np.partition(values[found], -_MAX_CLOSEST_PER_BLOCK)[-_MAX_CLOSEST_PER_BLOCK]
        above, equal = found[values[found] > least], found[values[found] == least]
        found = np.concatenate((above, equal[: _MAX_CLOSEST_PER_BLOCK - len(above)]))
    return list(zip(*(part.tolist() for part in np.unravel_index(found, similarities.shape)), strict=True))


def _blocks(rows: RowArray) -> Iterator[RowArray]:
    return (rows[start : start + BLOCK_ROWS] for start in range(0, len(rows), BLOCK_ROWS))
