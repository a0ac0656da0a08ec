from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recipe_exp.data.duplicates import choice as module
from recipe_exp.data.duplicates.choice import Choice, Ranking, choose
from recipe_exp.data.duplicates.shingles import jaccard

WORDS = [f"word{number}" for number in range(60)]


def changed(places: frozenset[int]) -> str:
    """Returns a text in which some words are others: two texts that differ in two distant words have J = 0.75."""
    return " ".join(f"other{place}" if place in places else word for place, word in enumerate(WORDS))


TEXTS = st.lists(st.frozensets(st.sampled_from([10, 25, 40, 55]), max_size=4).map(changed), min_size=1, max_size=12)


def components(num: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    labels = list(range(num))
    for one, other in edges:
        low, high = sorted((labels[one], labels[other]))
        labels = [low if label == high else label for label in labels]
    return labels


def decide(
    texts: Sequence[str], held_out: Sequence[bool], scores: Sequence[float], keys: Sequence[int], is_one_kept: bool
) -> tuple[Choice, list[list[bool]]]:
    near = [
        [keys[a] == keys[b] or jaccard(texts[a], texts[b]) >= 0.8 for b in range(len(texts))] for a in range(len(texts))
    ]
    labels = components(len(texts), [pair for pair in combinations(range(len(texts)), 2) if near[pair[0]][pair[1]]])
    found = choose(
        np.array(labels, dtype=np.int32),
        Ranking(np.array(held_out, dtype=np.bool_), np.array(scores, dtype=np.float32)),
        texts,
        np.array(keys, dtype=np.uint64),
        lambda _done: None,
        is_one_kept=is_one_kept,
    )
    return found, near


def expected(
    held_out: Sequence[bool], scores: Sequence[float], near: list[list[bool]], is_one_kept: bool
) -> dict[int, int]:
    """Says by the definition for which row each one stays."""
    ranked = sorted(range(len(held_out)), key=lambda row: (not held_out[row], -scores[row], row))
    leaders: list[int] = []
    stays_for = {}
    for row in ranked:
        nearest = [one for one in leaders if near[row][one]]
        if nearest and (is_one_kept or not held_out[row]):
            stays_for[row] = nearest[0]
        else:
            stays_for[row] = row
            leaders += [row] if is_one_kept or held_out[row] else []
    return stays_for


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(), is_one_kept=st.booleans(), sizes=st.sampled_from([(1024, 8192, 16), (1024, 8192, 0), (2, 8192, 0)])
)
def test_each_row_stays_unless_it_is_near_a_better_one_that_stays(
    data: st.DataObject, is_one_kept: bool, sizes: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in zip(("BLOCK_ROWS", "MAX_LEADERS", "_MAX_SINGLE_ROWS"), sizes, strict=True):
        monkeypatch.setattr(module, name, size)
    texts = data.draw(TEXTS)
    rows = st.integers(0, len(texts) + 3)
    keys = [
        key if key < 2 else 100 + row for row, key in enumerate(data.draw(st.lists(rows, min_size=12, max_size=12)))
    ]
    held_out = data.draw(st.lists(st.booleans(), min_size=len(texts), max_size=len(texts)))
    scores = data.draw(st.lists(st.sampled_from([0.25, 0.5]), min_size=len(texts), max_size=len(texts)))
    found, near = decide(texts, held_out, scores, keys[: len(texts)], is_one_kept)
    wanted = expected(held_out, scores, near, is_one_kept)
    assert dict(enumerate(found.stays_for.tolist())) == wanted
    left = [
        jaccard(texts[a], texts[b])
        for a, b in combinations(range(len(texts)), 2)
        if held_out[a] != held_out[b] and wanted[a] == a and wanted[b] == b
    ]
    told = [pair.similarity for pair in found.closest_across_split]
    assert told == sorted(told, reverse=True)
    assert set(told) <= set(left)
    assert max(left, default=0.0) < 0.8


@pytest.mark.parametrize("is_one_kept", [True, False])
@pytest.mark.parametrize("max_leaders", [1, 4])
def test_large_clusters_keep_nothing_near_a_held_out_row(
    is_one_kept: bool, max_leaders: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK_ROWS", 3)
    monkeypatch.setattr(module, "MAX_LEADERS", max_leaders)
    dice = random.Random(1)
    texts = [changed(frozenset(dice.sample(range(5, 60, 5), dice.randrange(3)))) for _ in range(60)]
    held_out = [dice.random() < 0.2 for _ in texts]
    found, near = decide(texts, held_out, [1.0] * 60, list(range(60)), is_one_kept)
    stays_for = found.stays_for.tolist()
    stays = {row for row, other in enumerate(stays_for) if row == other}
    left_out = set(range(60)) - stays
    assert left_out
    assert all(stays_for[row] in stays and near[row][stays_for[row]] for row in left_out)
    across = [(a, b) for a in stays for b in stays if near[a][b] and held_out[a] and not held_out[b]]
    assert across == []
    if is_one_kept:
        assert not any(near[a][b] for a, b in combinations(sorted(stays), 2) if held_out[a] and held_out[b])


def test_a_chain_loses_its_middle_alone() -> None:
    """The ends of a chain share less than the threshold, so neither stands for the other."""
    texts = [changed(frozenset(places)) for places in ((), (10,), (10, 25))]
    assert jaccard(texts[0], texts[2]) < 0.8 < min(jaccard(texts[0], texts[1]), jaccard(texts[1], texts[2]))
    best_first, _ = decide(texts, [False] * 3, [0.9, 0.8, 0.7], [1, 2, 3], is_one_kept=True)
    assert best_first.stays_for.tolist() == [0, 0, 2]
    middle_best, _ = decide(texts, [False] * 3, [0.7, 0.8, 0.9], [1, 2, 3], is_one_kept=True)
    assert middle_best.stays_for.tolist() == [0, 2, 2]
    across, _ = decide(texts, [True, False, False], [0.5] * 3, [1, 2, 3], is_one_kept=True)
    assert across.stays_for.tolist() == [0, 0, 2]
    assert [pair[:2] for pair in across.closest_across_split] == [(0, 2)]
