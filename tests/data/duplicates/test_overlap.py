from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe_exp.data.duplicates import overlap
from recipe_exp.data.duplicates.overlap import ShingleBlock, count_shared

SETS = st.lists(st.frozensets(st.integers(0, 25), min_size=1, max_size=12), min_size=1, max_size=8)


def block_of(sets: list[frozenset[int]]) -> ShingleBlock:
    return ShingleBlock(np.arange(len(sets)), [np.array(sorted(one), dtype=np.uint64) for one in sets])


class TestCountShared:
    @given(
        sets=SETS,
        others=SETS,
        least_share=st.sampled_from([0.0, 0.5, 0.7]),
        pairs_a_column=st.sampled_from([0, 1, 8, 10**9]),
        columns=st.integers(1, 5),
        step=st.integers(1, 9),
    )
    def test_counts_every_pair_however_it_is_split(
        self,
        sets: list[frozenset[int]],
        others: list[frozenset[int]],
        least_share: float,
        pairs_a_column: int,
        columns: int,
        step: int,
    ) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(overlap, "_PAIRS_A_COLUMN", pairs_a_column)
            patch.setattr(overlap, "_COLUMNS_A_PRODUCT", columns)
            patch.setattr(overlap, "_PAIRS_A_STEP", step)
            kept, other_kept, counts = count_shared(block_of(sets), block_of(others), least_share)
        rows, other_rows = kept.tolist(), other_kept.tolist()
        assert counts.tolist() == [[len(sets[row] & others[other]) for other in other_rows] for row in rows]
        for row in set(range(len(sets))) - set(rows):
            assert all(len(sets[row] & other) < least_share * len(sets[row]) for other in others)
        for other in set(range(len(others))) - set(other_rows):
            assert all(len(others[other] & one) < least_share * len(others[other]) for one in sets)
