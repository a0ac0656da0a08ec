from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe_exp.data.duplicates import shingles
from recipe_exp.data.duplicates.shingles import jaccard, shingle_runs, shingle_sets, words_of

FEW_WORDS = st.lists(st.sampled_from(["egg", "Egg", "milk", "1/2", "crème", ",", "--"]), max_size=14).map(" ".join)


def runs_of(text: str) -> set[tuple[str, ...]]:
    """Returns the definition itself: the set of four-word runs, or the one run of fewer words."""
    words = words_of(text)
    return {tuple(words[start : start + 4]) for start in range(max(len(words) - 3, 1))} if words else set()


def share_of_common_runs(first: str, second: str) -> float:
    one, other = runs_of(first), runs_of(second)
    return len(one & other) / len(one | other) if one | other else 0.0


class TestWords:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("Mix 2 EGGS, well.", ["mix", "2", "eggs", "well"]),
            ("Crème brûlée", ["crème", "brûlée"]),
            ("1/2 cup all-purpose_flour", ["1", "2", "cup", "all", "purpose", "flour"]),
            ("Straße", ["strasse"]),
            ("Творог 200г", ["творог", "200г"]),
            ("\n -- !?", []),
        ],
    )
    def test_are_casefolded_runs_of_letters_and_digits(self, text: str, words: list[str]) -> None:
        assert words_of(text) == words


class TestJaccard:
    @given(first=FEW_WORDS, second=FEW_WORDS)
    def test_is_the_share_of_common_runs(self, first: str, second: str) -> None:
        assert jaccard(first, second) == share_of_common_runs(first, second)

    @given(text=st.text(max_size=60))
    def test_any_text_is_like_itself_unless_it_has_no_words(self, text: str) -> None:
        assert jaccard(text, text) == float(bool(words_of(text)))

    def test_order_counts_and_case_and_punctuation_do_not(self) -> None:
        assert jaccard("Beat the eggs, add milk", "beat THE eggs - add milk!") == 1.0
        assert jaccard("beat the eggs with milk", "milk with eggs the beat") == 0.0

    def test_short_texts_are_one_run(self) -> None:
        assert jaccard("egg salad", "Egg Salad") == 1.0
        assert jaccard("egg salad", "egg salad sandwich") == 0.0
        assert jaccard("", "") == jaccard("", "egg") == 0.0


class TestShingleRuns:
    @given(texts=st.lists(FEW_WORDS, max_size=8))
    def test_texts_side_by_side_have_the_runs_they_have_alone(self, texts: list[str]) -> None:
        together, counts = shingle_runs(texts)
        alone = [shingle_runs([text])[0] for text in texts]
        assert counts.tolist() == [len(runs) for runs in alone]
        assert together.tolist() == [run for runs in alone for run in runs.tolist()]
        assert [len(one) for one in shingle_sets(texts)] == [len(runs_of(text)) for text in texts]

    def test_hashes_are_the_same_in_every_process(self) -> None:
        program = "from recipe_exp.data.duplicates.shingles import *; print(shingle_runs(['Crème of four eggs'])[0][0])"
        seeds = ("1", "2")
        printed = {
            subprocess.run(
                [sys.executable, "-c", program],
                env={"PYTHONHASHSEED": seed},
                capture_output=True,
                text=True,
                check=True,
            ).stdout.strip()
            for seed in seeds
        }
        assert printed == {str(shingle_runs(["crème OF four eggs"])[0][0])}

    def test_hashes_survive_a_full_cache(self, monkeypatch: pytest.MonkeyPatch) -> None:
        texts = [f"word{number} of this kind" for number in range(50)]
        expected, _ = shingle_runs(texts)
        monkeypatch.setattr(shingles, "_MAX_CACHED_WORDS", 7)
        monkeypatch.setattr(shingles, "_WORD_HASHES", type(shingles._WORD_HASHES)())
        np.testing.assert_array_equal(shingle_runs(texts)[0], expected)
        assert len(shingles._WORD_HASHES) <= 7

    def test_hashes_of_different_runs_differ(self) -> None:
        words = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]
        texts = [f"{one} {two} {three} {four}" for one in words for two in words for three in words for four in words]
        assert len(np.unique(shingle_runs(texts)[0])) == len(texts)
