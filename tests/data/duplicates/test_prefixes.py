from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe_exp.data.duplicates import prefixes
from recipe_exp.data.duplicates.overlap import ShingleBlock
from recipe_exp.data.duplicates.prefixes import PrefixIndex, similarities_of

SETS = st.lists(st.frozensets(st.integers(0, 15), min_size=1, max_size=12), min_size=1, max_size=10)


def block_of(sets: list[frozenset[int]]) -> ShingleBlock:
    return ShingleBlock(np.arange(len(sets)), [np.array(sorted(one), dtype=np.uint64) for one in sets])


def pairs_of(found: tuple[np.ndarray, np.ndarray] | None) -> list[tuple[int, int]]:
    assert found is not None
    return list(zip(*(part.tolist() for part in found), strict=True))


@settings(max_examples=200, deadline=None)
@given(sets=SETS, others=SETS, least=st.sampled_from([0.3, 0.5, 0.7, 0.75, 0.8, 1.0]))
def test_no_similar_pair_is_missed(sets: list[frozenset[int]], others: list[frozenset[int]], least: float) -> None:
    for right in (sets, others):
        index, left = PrefixIndex(block_of(right), least), block_of(others)
        pairs = pairs_of(index.candidates(left, 10**9))
        assert len(set(pairs)) == len(pairs)
        similar = {
            (one, other)
            for one, first in enumerate(others)
            for other, second in enumerate(right)
            if len(first & second) / len(first | second) >= least
        }
        assert similar <= set(pairs)


@settings(deadline=None)
@given(sets=SETS, others=SETS, step=st.sampled_from([1, 7, 2**20]), data=st.data())
def test_similarities_are_exact(
    sets: list[frozenset[int]], others: list[frozenset[int]], step: int, data: st.DataObject
) -> None:
    pair = st.tuples(st.integers(0, len(sets) - 1), st.integers(0, len(others) - 1))
    pairs = data.draw(st.lists(pair, max_size=20))
    rows, other_rows = (np.array([one[side] for one in pairs], dtype=np.int64) for side in (0, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefixes, "_ENTRIES_A_STEP", step)
        found = similarities_of(block_of(sets), rows, block_of(others), other_rows)
    expected = [len(sets[a] & others[b]) / len(sets[a] | others[b]) for a, b in pairs]
    assert found.tolist() == expected


def test_a_template_makes_no_candidates_and_frequent_ones_are_counted() -> None:
    template = frozenset(range(100, 150))
    texts = [template | frozenset(range(1000 * number, 1000 * number + 20)) for number in range(1, 40)]
    index = PrefixIndex(block_of(texts), 0.8)
    assert pairs_of(index.candidates(block_of(texts), 10**9)) == [(row, row) for row in range(39)]
    equal = block_of([template] * 40)
    assert PrefixIndex(equal, 0.8).candidates(equal, 40 * 40) is None
    assert len(pairs_of(PrefixIndex(equal, 0.8).candidates(equal, 10**9))) == 1600
