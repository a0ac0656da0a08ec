"""Keys of all rows in one file, those of a row side by side, read one band at a time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recipe_exp.data.duplicates.shingles import HashArray
from recipe_exp.data.duplicates.signatures import NUM_BANDS
from recipe_exp.errors import DataError

_KEY_BYTES = np.dtype(np.uint64).itemsize
_CHUNK_ROWS = 8192


class KeyFile:
    """The keys of rows, as little-endian 64-bit numbers.

    The file is read and not mapped, so that its pages do not count as memory of this process.

    Args:
        path: of the file.
        num_bands: keys of each row.

    Raises:
        DataError: the file does not hold whole rows.
    """

    def __init__(self, path: Path, num_bands: int = NUM_BANDS) -> None:
        self._path = path
        self._num_bands = num_bands
        num_bytes = path.stat().st_size
        if num_bytes % (num_bands * _KEY_BYTES):
            raise DataError(f"{path}: ends within a row of keys; remove it to begin again")
        self._num_rows = num_bytes // (num_bands * _KEY_BYTES)

    def __len__(self) -> int:
        return self._num_rows

    def rows(self, numbers: Sequence[int]) -> HashArray:
        """Returns the keys of some rows, (len(numbers), num_bands)."""
        size = self._num_bands * _KEY_BYTES
        with self._path.open("rb", buffering=0) as file:
            content = b"".join([os.pread(file.fileno(), size, number * size) for number in numbers])
        return np.frombuffer(content, dtype="<u8").reshape(-1, self._num_bands)

    def band(self, number: int) -> HashArray:
        """Returns the keys of all rows in one band, (num_rows,)."""
        keys = np.empty(self._num_rows, dtype=np.uint64)
        with self._path.open("rb") as file:
            for start in range(0, self._num_rows, _CHUNK_ROWS):
                content = file.read(_CHUNK_ROWS * self._num_bands * _KEY_BYTES)
                chunk = np.frombuffer(content, dtype="<u8").reshape(-1, self._num_bands)
                keys[start : start + len(chunk)] = chunk[:, number]
        return keys
