"""The records of a corpus while it is prepared: on disk, in the order in which they were read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import overload

import msgspec
import numpy as np
import numpy.typing as npt

from recipe_exp.data.preparation.intake import Place
from recipe_exp.data.preparation.stored_record import StoredRecord, decode_line
from recipe_exp.data.split import SPLITS, Split

RECORDS = "records.jsonl"
ENDS = "record_ends.i64"
PLACES = "places.jsonl"
SPLIT_NUMBERS = "splits.u8"
KEYS = "keys.u64"
SCORES = "scores.f4"
SIGNATURES = "signatures.u64"
REJECTS = "rejects.jsonl"

RECORD_FILES = (RECORDS, ENDS, PLACES, SPLIT_NUMBERS, KEYS, SCORES, SIGNATURES, REJECTS)

_PLACE = msgspec.json.Decoder(tuple[str, int])


class RecordFiles:
    """What the records are, by their number: memory does not grow with them beyond some bytes for each.

    Attributes:
        splits: (num_records,) uint8, the number of each one's split in `SPLITS`.
        scores: (num_records,) float32, the quality of each.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.splits: npt.NDArray[np.uint8] = np.fromfile(folder / SPLIT_NUMBERS, dtype=np.uint8)
        self.scores: npt.NDArray[np.float32] = np.fromfile(folder / SCORES, dtype=np.float32)

    def __len__(self) -> int:
        return len(self.splits)

    @property
    def keys(self) -> npt.NDArray[np.uint64]:
        """(num_records,) equal for two that are the same; read when they are asked for."""
        found: npt.NDArray[np.uint64] = np.fromfile(self._folder / KEYS, dtype=np.uint64)
        return found

    @property
    def is_held_out(self) -> npt.NDArray[np.bool_]:
        """(num_records,) whether each one's own title puts it into validation or test."""
        return np.not_equal(self.splits, SPLITS.index("train"))

    def split(self, number: int) -> Split:
        """Returns the split of a record."""
        return SPLITS[int(self.splits[number])]

    @cached_property
    def texts(self) -> RecordTexts:
        """The words by which records are compared."""
        return RecordTexts(self._folder)

    def lines(self) -> Iterator[bytes]:
        """Yields each record as a line of JSON, in order."""
        with (self._folder / RECORDS).open("rb") as file:
            yield from file

    def places(self) -> Iterator[Place]:
        """Yields where each record stood, in order."""
        with (self._folder / PLACES).open("rb") as file:
            for line in file:
                yield Place(*_PLACE.decode(line))


@dataclass
class RecordTexts(Sequence[str]):
    """The text of each record, read when it is asked for.

    The file is read and not mapped, so that its pages do not count as memory of this process.
    """

    folder: Path

    def __post_init__(self) -> None:
        self._ends = np.fromfile(self.folder / ENDS, dtype=np.int64)
        self._file = (self.folder / RECORDS).open("rb", buffering=0)

    def __len__(self) -> int:
        return len(self._ends)

    def record(self, number: int) -> StoredRecord:
        """Returns a record."""
        start = int(self._ends[number - 1]) if number else 0
        line = os.pread(self._file.fileno(), int(self._ends[number]) - start, start)
        return decode_line(line)

    @overload
    def __getitem__(self, number: int) -> str: ...
    @overload
    def __getitem__(self, number: slice) -> list[str]: ...
    def __getitem__(self, number: int | slice) -> str | list[str]:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        return self.record(range(len(self))[number]).text
