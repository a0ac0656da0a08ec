from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recipe_exp.data.duplicates.key_file import KeyFile
from recipe_exp.data.duplicates.shingles import HashArray
from recipe_exp.data.duplicates.signatures import NUM_BANDS
from recipe_exp.errors import DataError


@pytest.fixture
def keys() -> HashArray:
    return np.random.default_rng(0).integers(0, 2**64, (10, NUM_BANDS), dtype=np.uint64, endpoint=False)


class TestKeyFile:
    def test_gives_back_the_bands_of_all_rows(self, keys: HashArray, tmp_path: Path) -> None:
        path = tmp_path / "keys"
        path.write_bytes(keys.tobytes())
        stored = KeyFile(path)
        assert len(stored) == 10
        for number in range(NUM_BANDS):
            np.testing.assert_array_equal(stored.band(number), keys[:, number])
        np.testing.assert_array_equal(KeyFile(path, num_bands=1).band(0), keys.ravel())

    def test_half_a_row_is_refused(self, keys: HashArray, tmp_path: Path) -> None:
        path = tmp_path / "keys"
        path.write_bytes(keys.tobytes() + b"half a row")
        with pytest.raises(DataError, match="ends within a row"):
            KeyFile(path)

    def test_may_be_empty(self, tmp_path: Path) -> None:
        (tmp_path / "keys").touch()
        assert KeyFile(tmp_path / "keys").band(0).shape == (0,)
