from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe_exp.data.duplicates.shingles import shingle_sets, similarity
from recipe_exp.data.duplicates.sketches import SKETCH_WORDS, most_similar, sketches

SETS = st.frozensets(st.integers(0, 40) | st.integers(0, 2**64 - 1), max_size=12)


@settings(deadline=None)
@given(pairs=st.lists(st.tuples(SETS, SETS), min_size=1, max_size=8))
def test_no_pair_is_more_similar_than_its_sketches_say(pairs: list[tuple[frozenset[int], frozenset[int]]]) -> None:
    left, right = ([np.array(sorted(pair[side]), dtype=np.uint64) for pair in pairs] for side in (0, 1))
    bounds = most_similar(sketches(left), sketches(right))
    for bound, one, other in zip(bounds, left, right, strict=True):
        assert similarity(one, other) <= bound + 1e-12
        assert bound <= 1.0


def test_texts_of_little_in_common_are_told_apart() -> None:
    words = [f"word{number}" for number in range(160)]
    sets = shingle_sets([" ".join(words[:120]), " ".join(words[:100]), " ".join(words[60:])])
    known = sketches(sets)
    assert known.shape == (3, SKETCH_WORDS)
    near, far = most_similar(known[[0, 0]], known[[1, 2]])
    assert near == pytest.approx(similarity(sets[0], sets[1]), abs=0.05)
    assert similarity(sets[0], sets[2]) <= far < 0.6


def test_nothing_has_sketches_too() -> None:
    assert sketches([]).shape == (0, SKETCH_WORDS)
    empty = sketches(shingle_sets([""]))
    assert most_similar(empty, empty).tolist() == [0.0]
