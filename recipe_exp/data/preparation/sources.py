"""Where records say that they came from, counted in little memory however many sources there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from recipe_exp.data.duplicates.shingles import CountArray, HashArray

# So many different sources are counted at a time; for more of them the keys are read several times.
_SOURCES_A_PASS = 2**18


@dataclass(frozen=True)
class Origin:
    """Records that came from one place.

    Attributes:
        name: of a file, or what the records call their source.
        num_records: those that were read.
        num_kept: those of them that are in one of the splits.
    """

    name: str
    num_records: int
    num_kept: int


@dataclass(frozen=True)
class Origins:
    """Where records came from.

    Attributes:
        largest: the places with the most records, the largest first.
        num_others: other places.
        num_other_records: records that were read from those.
        num_other_kept: those of them that stayed.
    """

    largest: tuple[Origin, ...]
    num_others: int
    num_other_records: int
    num_other_kept: int


@dataclass(frozen=True)
class CountedSource:
    """A source that is known by its key.

    Attributes:
        first: the first record that names it.
        num_records: those that were read.
        num_kept: those of them that are in one of the splits.
    """

    first: int
    num_records: int
    num_kept: int


@dataclass(frozen=True)
class CountedSources:
    """All sources.

    Attributes:
        largest: those with the most records, the largest first; of equal ones the one that is named first.
        num_sources: all of them.
        num_records: that name one.
        num_kept: those of them that are in one of the splits.
    """

    largest: tuple[CountedSource, ...]
    num_sources: int
    num_records: int
    num_kept: int


def source_name(source: str) -> str:
    """Returns what stands for a source: of an address on the web its host, else the source itself."""
    if source.startswith(("https://", "http://")):
        return source.split("/", 3)[2].rpartition("@")[2].casefold() or source
    return source


def source_key(source: str | None) -> int:
    """Returns a number that is not 0 and stands for the source; 0 without one."""
    return int.from_bytes(blake2b(source_name(source).encode(), digest_size=8).digest(), "big") | 1 if source else 0


def count_sources(
    read_keys: Callable[[], Iterable[HashArray]], is_kept: npt.NDArray[np.bool_], num_largest: int
) -> CountedSources:
    """Counts equal keys.

    Args:
        read_keys: yields in pieces the `source_key` of each record; called again for every pass.
        is_kept: (num_records,) whether each is in a split.
        num_largest: how many sources are told by themselves.
    """
    num_passes = len(is_kept) // _SOURCES_A_PASS + 1
    bounds = [number * 2**64 // num_passes for number in range(num_passes + 1)]
    largest: list[CountedSource] = []
    sums = np.zeros(3, dtype=np.int64)
    for low, high in pairwise(bounds):
        table = _Table.between(max(low, 1), high - 1, read_keys(), is_kept)
        order = np.lexsort((table.first, -table.counts))[:num_largest]
        columns = (column[order].tolist() for column in (table.first, table.counts, table.kept))
        found = [CountedSource(*row) for row in zip(*columns, strict=True)]
        largest = sorted([*largest, *found], key=lambda one: (-one.num_records, one.first))[:num_largest]
        sums += (len(table.keys), table.counts.sum(), table.kept.sum())
    return CountedSources(tuple(largest), *sums.tolist())


@dataclass(frozen=True)
class _Table:
    """Some keys and, of each, the first record, how many have it, and how many of those are kept; all (num_keys,)."""

    keys: HashArray
    first: CountArray
    counts: CountArray
    kept: CountArray

    @classmethod
    def between(cls, low: int, high: int, pieces: Iterable[HashArray], is_kept: npt.NDArray[np.bool_]) -> _Table:
        """Returns the keys from `low` to `high`, the latter included."""
        none = np.empty(0, dtype=np.int64)
        parts, num_pending, start = [cls(none.astype(np.uint64), none, none, none)], 0, 0
        for piece in pieces:
            rows = np.flatnonzero((piece >= np.uint64(low)) & (piece <= np.uint64(high)))
            numbers = rows + start
            parts.append(cls(piece[rows], numbers, np.ones_like(numbers), is_kept[numbers].astype(np.int64)))
            num_pending, start = num_pending + len(rows), start + len(piece)
            if num_pending > _SOURCES_A_PASS:
                parts, num_pending = [cls._merged(parts)], 0
        return cls._merged(parts)

    @classmethod
    def _merged(cls, parts: list[_Table]) -> _Table:
        columns = ([getattr(part, name) for part in parts] for name in ("keys", "first", "counts", "kept"))
        keys, first, counts, kept = map(np.concatenate, columns)
        different, index, inverse = np.unique(keys, return_index=True, return_inverse=True)
        sums = (np.zeros(len(different), dtype=np.int64), np.zeros(len(different), dtype=np.int64))
        for total, column in zip(sums, (counts, kept), strict=True):
            np.add.at(total, inverse, column)
        return cls(different, first[index], *sums)
