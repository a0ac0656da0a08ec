from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe_exp.data.duplicates.shingles import HashArray
from recipe_exp.data.preparation import sources
from recipe_exp.data.preparation.sources import count_sources, source_key

NAMES = [None, "", "a", "b", "c", "https://d.example/1", "https://D.example/2", "e"]


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(st.sampled_from(NAMES), st.booleans()), max_size=40),
    piece=st.integers(1, 50),
    at_once=st.sampled_from([1, 3, 2**18]),
    num_largest=st.integers(1, 6),
)
def test_sources_are_counted_in_however_many_passes(
    rows: list[tuple[str | None, bool]], piece: int, at_once: int, num_largest: int
) -> None:
    keys = np.array([source_key(name) for name, _ in rows], dtype=np.uint64)

    def read_keys() -> Iterator[HashArray]:
        return (keys[start : start + piece] for start in range(0, len(keys), piece))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "_SOURCES_A_PASS", at_once)
        found = count_sources(read_keys, np.array([is_kept for _, is_kept in rows], dtype=np.bool_), num_largest)
    names = [sources.source_name(name) if name else None for name, _ in rows]
    counts = Counter(name for name in names if name)
    kept = Counter(name for name, (_, is_kept) in zip(names, rows, strict=True) if name and is_kept)
    expected = sorted(
        ((names.index(name), count, kept[name]) for name, count in counts.items()), key=lambda one: (-one[1], one[0])
    )
    assert [(one.first, one.num_records, one.num_kept) for one in found.largest] == expected[:num_largest]
    assert (found.num_sources, found.num_records, found.num_kept) == (len(counts), counts.total(), kept.total())
