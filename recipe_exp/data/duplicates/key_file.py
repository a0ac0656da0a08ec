"""The keys of all rows in one file, one row of `signatures` after the other, read a few bands at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recipe_exp.data.duplicates.shingles import HashArray
from recipe_exp.data.duplicates.signatures import NUM_BANDS
from recipe_exp.errors import DataError

_ROW_BYTES = NUM_BANDS * np.dtype(np.uint64).itemsize
_CHUNK_ROWS = 8192


class KeyFile:
    """The keys of rows, as little-endian 64-bit numbers.

    The file is read and not mapped, so that its pages do not count as memory of this process.

    Raises:
        DataError: the file does not hold whole rows.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        num_bytes = path.stat().st_size
        if num_bytes % _ROW_BYTES:
            raise DataError(f"{path}: ends within a row of keys; remove it to begin again")
        self._num_rows = num_bytes // _ROW_BYTES

    def __len__(self) -> int:
        return self._num_rows

    def bands(self, first: int, stop: int) -> HashArray:
        """Returns the keys of all rows in the bands from `first` up to `stop`, (stop - first, num_rows)."""
        keys = np.empty((stop - first, self._num_rows), dtype=np.uint64)
        with self._path.open("rb") as file:
            for start in range(0, self._num_rows, _CHUNK_ROWS):
                chunk = np.frombuffer(file.read(_CHUNK_ROWS * _ROW_BYTES), dtype="<u8").reshape(-1, NUM_BANDS)
                keys[:, start : start + len(chunk)] = chunk[:, first:stop].T
        return keys
