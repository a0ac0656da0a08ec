from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recipe_exp.data.duplicates.forest import Forest

EDGES = st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=25)


def smallest_connected(edges: list[tuple[int, int]]) -> list[int]:
    labels = list(range(20))
    for _ in labels:
        for one, other in edges:
            labels[one] = labels[other] = min(labels[one], labels[other])
    return labels


class TestForest:
    @given(edges=EDGES, seed=st.randoms(use_true_random=False))
    def test_a_root_is_the_smallest_row_in_whatever_order_sets_grew(self, edges: list[tuple[int, int]], seed) -> None:
        expected = smallest_connected(edges)
        forest = Forest(20)
        for one, other in seed.sample(edges, len(edges)):
            if seed.random() < 0.5:
                forest.unite(one, other)
            else:
                forest.unite_all(np.array([other, one]))
        assert [forest.find(row) for row in range(20)] == expected
        assert forest.roots_of(np.arange(20)).tolist() == expected
        assert forest.labels().tolist() == expected

    @given(keys=st.lists(st.integers(0, 4), max_size=20))
    def test_equal_keys_are_one_set(self, keys: list[int]) -> None:
        forest = Forest(len(keys))
        forest.unite_equal(np.array(keys, dtype=np.uint64))
        assert forest.labels().tolist() == [keys.index(key) for key in keys]
