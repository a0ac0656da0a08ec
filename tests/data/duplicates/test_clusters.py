from __future__ import annotations

import random
import tracemalloc
from collections.abc import Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recipe_exp.data.duplicates import clusters, crowds, forest, key_file
from recipe_exp.data.duplicates.clusters import Clusters, find_clusters
from recipe_exp.data.duplicates.comparison import Rows
from recipe_exp.data.duplicates.key_file import KeyFile
from recipe_exp.data.duplicates.shingles import jaccard, shingle_sets, words_of
from recipe_exp.data.duplicates.signatures import signatures
from recipe_exp.data.duplicates.sketches import SKETCH_WORDS, sketches

VOCABULARY = [f"word{number}" for number in range(3000)]


def search(
    texts: Sequence[str],
    folder: Path,
    held_out: Sequence[bool] = (),
    exact_keys: Sequence[int] = (),
    chunk: int = 1000,
    **arguments: Any,
) -> Clusters:
    with (folder / "keys").open("wb") as keys, (folder / "sketches").open("wb") as sketched:
        for start in range(0, len(texts), chunk):
            sets = shingle_sets(texts[start : start + chunk])
            keys.write(signatures(sets).tobytes())
            sketched.write(sketches(sets).tobytes())
    np.array(exact_keys or range(len(texts)), dtype=np.uint64).tofile(folder / "exact_keys")
    defaults: dict[str, Any] = {"progress": lambda _done, _total: None}
    is_held_out = np.array(held_out or [row % 7 == 0 for row in range(len(texts))], dtype=np.bool_)
    rows = Rows(
        texts,
        KeyFile(folder / "keys"),
        KeyFile(folder / "sketches", num_bands=SKETCH_WORDS),
        KeyFile(folder / "exact_keys", num_bands=1),
        is_held_out,
    )
    return find_clusters(rows, **{**defaults, **arguments})


def edited(text: str, num_words: int, dice: random.Random) -> str:
    words = text.split()
    for place in dice.sample(range(len(words)), num_words):
        words[place] = f"other{dice.getrandbits(40)}"
    return " ".join(words)


def recipes_with_copies(num: int, seed: int) -> list[str]:
    dice = random.Random(seed)
    texts: list[str] = []
    for _ in range(num):
        text = " ".join(dice.choices(VOCABULARY, k=dice.randint(60, 90)))
        texts.append(text)
        texts += [edited(text, dice.randrange(6), dice) for _ in range(dice.choice((0, 0, 1, 2)))]
    dice.shuffle(texts)
    return texts


def templated(num: int, num_choices: int, seed: int = 0) -> list[str]:
    """Returns texts with four places filled from `num_choices` words: unlike in all four they have J = 0.72."""
    dice = random.Random(seed)
    words = dice.sample(VOCABULARY, 100)
    texts = []
    for _ in range(num):
        for place in (10, 35, 60, 85):
            words[place] = f"slot{place}choice{dice.randrange(num_choices)}"
        texts.append(" ".join(words))
    return texts


def all_similarities(texts: Sequence[str]) -> dict[tuple[int, int], float]:
    """Returns the similarity of every pair by its definition, for texts of at least four words."""
    runs = [set(pairwise(pairwise(pairwise(words_of(text))))) for text in texts]
    pairs = combinations(range(len(texts)), 2)
    return {(one, other): len(runs[one] & runs[other]) / len(runs[one] | runs[other]) for one, other in pairs}


def similarities_across(texts: Sequence[str]) -> dict[tuple[int, int], float]:
    return {pair: value for pair, value in all_similarities(texts).items() if (pair[0] % 7 == 0) != (pair[1] % 7 == 0)}


def components(num: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    labels = list(range(num))
    for one, other in edges:
        low, high = sorted((labels[one], labels[other]))
        labels = [low if label == high else label for label in labels]
    return labels


class TestDefinition:
    @given(data=st.data())
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_clusters_are_the_connected_near_pairs(self, data: st.DataObject, tmp_path: Path) -> None:
        phrases = ["a b c d e f g h", "i j k l m n", "o p", "q", "", "A b c D e f g", "r s t u v w x y z"]
        texts = data.draw(st.lists(st.lists(st.sampled_from(phrases), max_size=5).map(" ".join), max_size=12))
        near = [pair for pair in combinations(range(len(texts)), 2) if jaccard(*(texts[row] for row in pair)) >= 0.8]
        assert search(texts, tmp_path).labels.tolist() == components(len(texts), near)

    def test_copies_are_found_and_nothing_else(self, tmp_path: Path) -> None:
        texts = recipes_with_copies(150, seed=1)
        values = all_similarities(texts)
        near = [pair for pair, value in values.items() if value >= 0.8]
        assert len(near) > 40
        assert sum(0.5 < value < 0.8 for value in values.values()) > 20
        assert search(texts, tmp_path).labels.tolist() == components(len(texts), near)

    def test_exact_keys_are_duplicates_without_looking(self, tmp_path: Path) -> None:
        texts = ["one text of some words", "another text entirely here now", "a third text about nothing"]
        result = search(texts, tmp_path, exact_keys=[5, 9, 5])
        assert result.labels.tolist() == [0, 1, 0]
        assert result.num_compared_pairs == 0

    def test_texts_without_words_are_alone(self, tmp_path: Path) -> None:
        assert search([""] * 40 + [" - "] * 40, tmp_path).labels.tolist() == list(range(80))

    def test_refuses_arrays_of_other_lengths(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"hold \[2, 2, 2, 2, 3\] rows"):
            search(["a", "b"], tmp_path, held_out=[True, False, False])


class TestReport:
    def test_names_the_closest_pairs_left_across_the_split(self, tmp_path: Path) -> None:
        texts = recipes_with_copies(150, seed=2)
        result = search(texts, tmp_path)
        left = {
            pair: value
            for pair, value in similarities_across(texts).items()
            if result.labels[pair[0]] != result.labels[pair[1]]
        }
        expected = sorted(left.items(), key=lambda item: (-item[1], item[0]))[:5]
        assert [(pair[:2], pair[2]) for pair in result.closest_across_split[:5]] == expected
        assert expected[0][1] > 0.7

    def test_names_no_pair_of_one_side(self, tmp_path: Path) -> None:
        texts = recipes_with_copies(60, seed=2)
        assert search(texts, tmp_path, held_out=[False] * len(texts)).closest_across_split == ()

    def test_a_crowd_has_its_closest_pairs_too(self, tmp_path: Path) -> None:
        texts = templated(120, num_choices=25)
        result = search(texts, tmp_path)
        left = [
            value
            for (one, other), value in similarities_across(texts).items()
            if result.labels[one] != result.labels[other]
        ]
        assert [pair.similarity for pair in result.closest_across_split[:10]] == sorted(left, reverse=True)[:10]

    def test_progress_is_told_and_may_stop_the_search(self, tmp_path: Path) -> None:
        told: list[tuple[int, int]] = []
        search(templated(60, num_choices=1000), tmp_path, progress=lambda done, total: told.append((done, total)))
        assert told[0] == (0, 32)
        assert told[-1] == (92, 92)
        assert [done for done, _ in told] == sorted(done for done, _ in told)

        def stop(done: int, total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            search(["a text"], tmp_path, progress=stop)


class TestHeldOutGuarantee:
    @pytest.mark.parametrize("num_choices", [4, 12, 40])
    @pytest.mark.parametrize("block_rows", [16, 1024])
    def test_no_near_duplicate_of_a_held_out_row_is_outside_its_cluster(
        self, num_choices: int, block_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(crowds, "BLOCK_ROWS", block_rows)
        monkeypatch.setattr(crowds, "MAX_REPRESENTATIVES", 4)
        monkeypatch.setattr(crowds, "_MAX_HELD_ROWS", 2 * block_rows)
        dice = random.Random(3)
        texts = [edited(text, dice.randrange(3), dice) for text in templated(300, num_choices)]
        result = search(texts, tmp_path)
        near = [pair for pair, value in similarities_across(texts).items() if value >= 0.8]
        assert near
        assert [pair for pair in near if result.labels[pair[0]] != result.labels[pair[1]]] == []

    def test_nothing_is_united_without_a_near_pair(self, tmp_path: Path) -> None:
        texts = templated(300, num_choices=40)
        near = [pair for pair, value in all_similarities(texts).items() if value >= 0.8]
        assert search(texts, tmp_path).labels.tolist() == components(300, near)


class TestIndependence:
    @pytest.mark.parametrize("kind", ["copies", "crowd"])
    def test_of_the_sizes_of_chunks(self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        texts = recipes_with_copies(100, seed=4) if kind == "copies" else templated(150, num_choices=30)
        expected = search(texts, tmp_path)
        monkeypatch.setattr(forest, "_SORTED_KEYS", 11)
        monkeypatch.setattr(key_file, "_CHUNK_ROWS", 17)
        result = search(texts, tmp_path, chunk=13)
        assert result.labels.tolist() == expected.labels.tolist()
        assert result.closest_across_split == expected.closest_across_split
        assert result.num_compared_pairs == expected.num_compared_pairs


class CountedTexts(Sequence[str]):
    """Texts that count how often one is read."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts
        self.num_reads = 0

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, index: Any) -> Any:
        self.num_reads += 1 if isinstance(index, int) else len(range(*index.indices(len(self))))
        return self._texts[index]


class TestWorkOnDegenerateData:
    """Every row is read a few times, and training rows are compared with those of their block alone."""

    NUM_ROWS = 4000

    @pytest.mark.parametrize("kind", ["identical", "nearly identical", "boilerplate", "templated"])
    @pytest.mark.parametrize("share_held_out", [0.0, 0.05])
    def test_is_bounded(
        self, kind: str, share_held_out: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(crowds, "BLOCK_ROWS", 128)
        monkeypatch.setattr(crowds, "MAX_REPRESENTATIVES", 32)
        texts = CountedTexts(self._texts(kind))
        dice = random.Random(7)
        held_out = [dice.random() < share_held_out for _ in range(self.NUM_ROWS)]
        result = search(texts, tmp_path, held_out=held_out)
        # All pairs would be 8 million.
        in_passing = self.NUM_ROWS * (128 + 32)
        assert result.num_compared_pairs <= in_passing + sum(held_out) * self.NUM_ROWS
        # Once for the keys, once in passing, once against the held-out rows, and at times in a small bucket before.
        assert texts.num_reads <= 4.5 * self.NUM_ROWS
        num_clusters = len(np.unique(result.labels))
        assert num_clusters == 1 if "identical" in kind else num_clusters > 0.9 * self.NUM_ROWS

    def _texts(self, kind: str) -> list[str]:
        dice = random.Random(6)
        words = dice.sample(VOCABULARY, 90)
        match kind:
            case "identical":
                return [" ".join(words)] * self.NUM_ROWS
            case "nearly identical":
                return [edited(" ".join(words), 1, dice) for _ in range(self.NUM_ROWS)]
            case "boilerplate":
                return [" ".join(words + dice.choices(VOCABULARY, k=45)) for _ in range(self.NUM_ROWS)]
            case _:
                return templated(self.NUM_ROWS, num_choices=1000)


class TestMemory:
    """What is held of each row while clusters are looked for; of the texts and keys nothing stays."""

    def test_grows_by_few_bytes_a_row(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(clusters, "NUM_BANDS", 2)
        monkeypatch.setattr(forest, "_SORTED_KEYS", 2**14)
        fewer, more = (self._peak_bytes(num_rows, tmp_path) for num_rows in (100_000, 400_000))
        assert (more - fewer) / 300_000 < 26

    def _peak_bytes(self, num_rows: int, folder: Path) -> int:
        dice = np.random.default_rng(0)
        for name, num_bands in (("keys", 2), ("exact_keys", 1)):
            dice.integers(1, 2**64, (num_rows, num_bands), dtype=np.uint64).tofile(folder / name)
        texts = CountedTexts(range(num_rows))  # type: ignore[arg-type]
        tracemalloc.start()
        try:
            keys, exact_keys = KeyFile(folder / "keys", num_bands=2), KeyFile(folder / "exact_keys", num_bands=1)
            rows = Rows(texts, keys, keys, exact_keys, np.zeros(num_rows, dtype=np.bool_))
            found = find_clusters(rows, lambda _done, _total: None)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert len(np.unique(found.labels)) == num_rows
        return peak
