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

from recipe_exp.data.duplicates.comparison import Rows
from recipe_exp.data.duplicates.key_file import KeyFile
from recipe_exp.data.duplicates.sketches import SKETCH_WORDS
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
SKETCHES = "sketches.u64"
SOURCE_KEYS = "source_keys.u64"
REJECTS = "rejects.jsonl"

RECORD_FILES = (RECORDS, ENDS, PLACES, SPLIT_NUMBERS, KEYS, SCORES, SIGNATURES, SKETCHES, SOURCE_KEYS, REJECTS)

_PLACE = msgspec.json.Decoder(tuple[str, int])
_END_BYTES = np.dtype(np.int64).itemsize
_KEYS_A_PIECE = 2**16


class RecordFiles:
    """What the records are, by their number: of each one byte is in memory, the rest is read when it is asked for.

    Attributes:
        splits: (num_records,) uint8, the number of each one's split in `SPLITS`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.splits: npt.NDArray[np.uint8] = np.fromfile(folder / SPLIT_NUMBERS, dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.splits)

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """(num_records,) the quality of each."""
        found: npt.NDArray[np.float32] = np.fromfile(self._folder / SCORES, dtype=np.float32)
        return found

    @property
    def keys(self) -> KeyFile:
        """One for each record, equal for two that are the same."""
        return KeyFile(self._folder / KEYS, num_bands=1)

    @property
    def rows(self) -> Rows:
        """What is known of them for comparing them."""
        signatures = KeyFile(self._folder / SIGNATURES)
        sketches = KeyFile(self._folder / SKETCHES, num_bands=SKETCH_WORDS)
        return Rows(self.texts, signatures, sketches, self.keys, self.is_held_out)

    def source_keys(self) -> Iterator[npt.NDArray[np.uint64]]:
        """Yields in pieces a number for each record that stands for its source, 0 where it names none."""
        with (self._folder / SOURCE_KEYS).open("rb") as file:
            while content := file.read(_KEYS_A_PIECE * np.dtype(np.uint64).itemsize):
                yield np.frombuffer(content, dtype=np.uint64)

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

    The files are read and not mapped, so that their pages do not count as memory of this process.
    """

    folder: Path

    def __post_init__(self) -> None:
        self._ends = (self.folder / ENDS).open("rb", buffering=0)
        self._file = (self.folder / RECORDS).open("rb", buffering=0)
        self._length = os.fstat(self._ends.fileno()).st_size // _END_BYTES

    def __len__(self) -> int:
        return self._length

    def record(self, number: int) -> StoredRecord:
        """Returns a record."""
        first = max(number - 1, 0)
        bounds = os.pread(self._ends.fileno(), (number + 1 - first) * _END_BYTES, first * _END_BYTES)
        start, end = np.frombuffer(bounds, dtype=np.int64).tolist() if number else (0, int.from_bytes(bounds, "little"))
        return decode_line(os.pread(self._file.fileno(), end - start, start))

    @overload
    def __getitem__(self, number: int) -> str: ...
    @overload
    def __getitem__(self, number: slice) -> list[str]: ...
    def __getitem__(self, number: int | slice) -> str | list[str]:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        return self.record(range(len(self))[number]).text
