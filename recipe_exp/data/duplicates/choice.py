"""Which rows of the clusters stay: every row that is left out is a near-duplicate of one that stays.

A cluster is transitive: of three rows the first may be near the second and the second near the third, and the outer two
may share little. So a cluster says where to look, and rows are left out by what they are near to themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from recipe_exp.data.duplicates.closest import ClosestPairs, SimilarPair
from recipe_exp.data.duplicates.clusters import THRESHOLD
from recipe_exp.data.duplicates.crowds import highest_positions
from recipe_exp.data.duplicates.forest import RowArray, groups_of_labels
from recipe_exp.data.duplicates.overlap import ShingleBlock, count_shared
from recipe_exp.data.duplicates.shingles import HashArray, shingle_sets, similarity

BLOCK_ROWS = 1024
MAX_LEADERS = 8192
"""Rows that stay are compared with the others of their cluster in groups of so many."""
# Two small sets are compared faster one by one than as rows of matrices.
_MAX_SINGLE_ROWS = 16
_CLUSTERS_BETWEEN_REPORTS = 1000

Similarities = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Choice:
    """Which rows stay.

    Attributes:
        stays_for: (num_rows,) the row that stays and is near this one; its own number if it stays itself.
        closest_across_split: the most similar pairs of one held-out and one other row of one cluster that both stay,
            the most similar first.
    """

    stays_for: RowArray
    closest_across_split: tuple[SimilarPair, ...]


@dataclass(frozen=True)
class Ranking:
    """What decides which of two near-duplicates stays.

    Attributes:
        is_held_out: (num_rows,) those that belong to validation or test stay before others.
        scores: (num_rows,) then the better one stays; of equal ones the first.
    """

    is_held_out: npt.NDArray[np.bool_]
    scores: npt.NDArray[np.float32]


def choose(
    labels: RowArray,
    ranking: Ranking,
    texts: Sequence[str],
    exact_keys: HashArray,
    progress: Callable[[int], None],
    *,
    is_one_kept: bool,
) -> Choice:
    """Decides which rows stay: the best first, and each unless it is near one that stays already.

    A row that is near a held-out one that stays is always found. In a cluster of which more than `MAX_LEADERS` training
    rows stay, the later ones are not compared with each other, and all of those stay.

    Args:
        labels: (num_rows,) the clusters; only rows of one cluster are compared.
        ranking: of the rows.
        texts: of the rows, read at random.
        exact_keys: (num_rows,) rows with equal ones are near without looking.
        progress: told now and then how many rows of clusters are decided.
        is_one_kept: whether of several near-duplicates one stays; otherwise all do, but for rows of the training split
            that are near a held-out one.
    """
    groups = groups_of_labels(labels)
    rows = groups.rows
    order = np.lexsort((rows, -ranking.scores[rows], ~ranking.is_held_out[rows], labels[rows]))
    ranked, keys = rows[order], exact_keys[rows[order]]
    chooser = _Chooser(ranking.is_held_out, texts, np.arange(len(labels), dtype=np.int32), is_one_kept)
    for number, (start, size) in enumerate(zip(groups.starts.tolist(), groups.sizes.tolist(), strict=True)):
        chooser.choose(ranked[start : start + size], keys[start : start + size])
        if number % _CLUSTERS_BETWEEN_REPORTS == 0:
            progress(start)
    return Choice(chooser.stays_for, tuple(chooser.closest.best()))


@dataclass(frozen=True)
class _Block:
    """Some rows of a cluster, the best first, with what they are compared by."""

    rows: RowArray
    keys: HashArray
    sets: list[HashArray]

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def shingles(self) -> ShingleBlock:
        return ShingleBlock(self.rows, self.sets)

    def part(self, is_chosen: npt.NDArray[np.bool_]) -> _Block:
        sets = [one for one, is_one in zip(self.sets, is_chosen.tolist(), strict=True) if is_one]
        return _Block(self.rows[is_chosen], self.keys[is_chosen], sets)


@dataclass
class _Chooser:
    is_held_out: npt.NDArray[np.bool_]
    texts: Sequence[str]
    stays_for: RowArray
    is_one_kept: bool
    closest: ClosestPairs = field(default_factory=lambda: ClosestPairs(int))

    def choose(self, rows: RowArray, keys: HashArray) -> None:
        """Decides about one cluster, given the best row first."""
        is_held_out = self.is_held_out[rows]
        if not self.is_one_kept and is_held_out.all() == is_held_out.any():
            return
        if len(rows) == 2:
            # There is no third through which they could be near.
            self.stays_for[rows[1]] = rows[0]
            return
        while len(rows):
            rows, keys, has_training_leaders = self._follow_leaders(rows, keys)
            if not self.is_held_out[rows].any() and (has_training_leaders or not self.is_one_kept):
                return

    def _follow_leaders(self, rows: RowArray, keys: HashArray) -> tuple[RowArray, HashArray, bool]:
        """Lets the best rows lead, as many as are compared at a time, and leaves out what is near them.

        Returns:
            The other rows, their keys, and whether one of the training split leads.
        """
        leaders: list[_Block] = []
        others: list[_Block] = []
        for start in range(0, len(rows), BLOCK_ROWS):
            stretch = slice(start, start + BLOCK_ROWS)
            block = _Block(
                rows[stretch], keys[stretch], shingle_sets(self.texts[row] for row in rows[stretch].tolist())
            )
            tables = [_similarities(block, one) for one in leaders]
            for table, one in zip(tables, leaders, strict=True):
                self._leave_out(block, table, one)
            leads = np.zeros(len(block), dtype=np.bool_)
            if sum(map(len, leaders)) < MAX_LEADERS:
                own_table = _similarities(block, block)
                leads = self._leads(block, own_table)
                tables.append(own_table)
            stays = self.stays_for[block.rows] == block.rows
            for table, one in zip(tables, [*leaders, block], strict=False):
                self._note_closest(block, table, one)
            if leads.any():
                leaders.append(block.part(leads))
            others.append(block.part(stays & ~leads))
        has_training_leaders = any(not self.is_held_out[one.rows].all() for one in leaders)
        pending = [one.rows for one in others], [one.keys for one in others]
        return np.concatenate(pending[0]), np.concatenate(pending[1]), has_training_leaders

    def _leave_out(self, block: _Block, table: Similarities, leaders: _Block) -> None:
        """Leaves out what is near one of the leaders, for the sake of the best of those."""
        is_near = table >= THRESHOLD
        if not self.is_one_kept:
            is_near[self.is_held_out[block.rows]] = False
        found = np.flatnonzero(is_near.any(axis=1) & (self.stays_for[block.rows] == block.rows))
        self.stays_for[block.rows[found]] = leaders.rows[is_near[found].argmax(axis=1)]

    def _leads(self, block: _Block, table: Similarities) -> npt.NDArray[np.bool_]:
        """Decides about the rows of a block among themselves, and returns which of them lead, (len(block),)."""
        is_near = table >= THRESHOLD
        leads = np.zeros(len(block), dtype=np.bool_)
        for position, (row, is_held_out) in enumerate(zip(block.rows, self.is_held_out[block.rows], strict=True)):
            if self.stays_for[row] != row:
                continue
            nearest = np.flatnonzero(leads & is_near[position])
            if len(nearest) and (self.is_one_kept or not is_held_out):
                self.stays_for[row] = block.rows[nearest[0]]
            else:
                leads[position] = self.is_one_kept or is_held_out
        return leads

    def _note_closest(self, block: _Block, table: Similarities, other: _Block) -> None:
        """Keeps the most similar pairs across the split of which both stay."""
        is_across = self.is_held_out[block.rows][:, None] != self.is_held_out[other.rows][None, :]
        stays, other_stays = (self.stays_for[one.rows] == one.rows for one in (block, other))
        values = np.where(is_across & stays[:, None] & other_stays[None, :] & (table < THRESHOLD), table, 0.0)
        for one, another in highest_positions(values, self.closest.floor):
            self.closest.add(int(block.rows[one]), int(other.rows[another]), float(values[one, another]))


def _similarities(block: _Block, other: _Block) -> Similarities:
    """Returns the similarity of every row of one block to every row of the other; 1 for rows with equal keys."""
    if max(len(block), len(other)) <= _MAX_SINGLE_ROWS:
        table = np.array([[similarity(one, another) for another in other.sets] for one in block.sets])
    else:
        left, right = block.shingles, other.shingles
        _, _, shared = count_shared(left, right, least_share=0.0)
        num_either = left.sizes[:, None] + right.sizes[None, :] - shared
        table = shared / np.maximum(num_either, 1)
    return np.where(block.keys[:, None] == other.keys[None, :], 1.0, table)
