from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe_exp.data.duplicates import signatures as module
from recipe_exp.data.duplicates.shingles import jaccard, shingle_sets
from recipe_exp.data.duplicates.signatures import NO_WORDS, NUM_BANDS, signatures

TEXTS = st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=12).map(" ".join), max_size=9)


def pair_of_similarity(dice: random.Random, num_common: int, num_different: int) -> tuple[str, str]:
    """Returns two texts that have `num_common` runs in common, and `num_different` each of their own."""
    start = [f"w{dice.getrandbits(60)}" for _ in range(num_common + 3)]
    tails = [[f"w{dice.getrandbits(60)}" for _ in range(num_different)] for _ in range(2)]
    return " ".join(start + tails[0]), " ".join(start + tails[1])


class TestSignatures:
    @given(texts=TEXTS, chunk=st.integers(1, 5))
    def test_depend_on_the_text_alone(self, texts: list[str], chunk: int) -> None:
        expected = [signatures(shingle_sets([text]))[0].tolist() for text in texts]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_CHUNK_TEXTS", chunk)
            assert signatures(shingle_sets(texts)).tolist() == expected

    def test_texts_without_words_have_the_reserved_key_and_no_others(self) -> None:
        keys = signatures(shingle_sets(["", "an egg", " - ", "four eggs and no more"]))
        assert keys.shape == (4, NUM_BANDS)
        assert keys.dtype == np.uint64
        assert (keys == NO_WORDS).all(axis=1).tolist() == [True, False, True, False]
        assert (keys == NO_WORDS).any(axis=1).tolist() == [True, False, True, False]

    @pytest.mark.parametrize(("num_common", "num_different"), [(96, 12), (84, 18), (60, 30)])
    def test_a_band_agrees_with_the_probability_of_minhash(self, num_common: int, num_different: int) -> None:
        dice = random.Random(0)
        pairs = [pair_of_similarity(dice, num_common, num_different) for _ in range(400)]
        similarity = num_common / (num_common + 2 * num_different)
        assert jaccard(*pairs[0]) == similarity
        first, second = (signatures(shingle_sets(texts)) for texts in zip(*pairs, strict=True))
        agreement = (first == second).mean(axis=0)
        expected = similarity**5
        # 12,800 bands: five standard deviations.
        assert agreement.mean() == pytest.approx(expected, abs=5 * (expected * (1 - expected) / 12_800) ** 0.5)
        # Bands are independent of each other: no text pair has much more agreeing bands than the binomial spread.
        spread = (first == second).sum(axis=1).std()
        assert spread == pytest.approx((NUM_BANDS * expected * (1 - expected)) ** 0.5, rel=0.2)
        if similarity == 0.8:
            assert (first == second).any(axis=1).all()
