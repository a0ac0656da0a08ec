"""Which held-out examples are evaluated, in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from recipe_exp.data.example import Example
from recipe_exp.data.preparation.stored_record import title_of
from recipe_exp.data.split import Split, point_of
from recipe_exp.data.tokens.cache import TokenCache
from recipe_exp.errors import DataError


@dataclass(frozen=True)
class HeldOut:
    """One held-out example.

    Attributes:
        split: where it is.
        index: its number there.
        example: its texts.
        source: where its recipe came from, empty if it never said.
    """

    split: Split
    index: int
    example: Example
    source: str


class HeldOutExamples:
    """The examples of some splits in the order of their titles' hashes.

    The first ones are a fair choice, also where the files are sorted by source, and adding recipes puts others between
    them without exchanging them.

    Args:
        cache: tokens and texts.
        splits: which ones.

    Raises:
        DataError: if they hold nothing.
    """

    def __init__(self, cache: TokenCache, splits: Sequence[Split]) -> None:
        self._cache = cache
        self._splits = tuple(splits)
        if len(self) == 0:
            (*_, last) = self._splits
            raise DataError(f"the {last} split holds no recipe; raise data.{last}_fraction or add recipes")

    def __len__(self) -> int:
        return sum(len(self._cache.split(split)) for split in self._splits)

    def first(self, count: int) -> list[HeldOut]:
        """Returns the first of them, all if there are fewer."""
        texts = {split: self._cache.examples(split) for split in self._splits}
        return [HeldOut(split, index, texts[split][index], source) for split, index, source in self._places[:count]]

    def indices(self, count: int) -> list[tuple[Split, int]]:
        """Returns split and number of the first of them, without reading their texts."""
        return [(split, index) for split, index, _ in self._places[:count]]

    @cached_property
    def _places(self) -> list[tuple[Split, int, str]]:
        keyed = [
            (-point_of(record.title or title_of(record.content)), split, index, record.source or "")
            for split in self._splits
            for index, record in enumerate(self._cache.prepared.records(split))
        ]
        return [(split, index, source) for _, split, index, source in sorted(keyed)]
