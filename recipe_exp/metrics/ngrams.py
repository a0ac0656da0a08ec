"""Sufficient statistics of BLEU and chrF: how many n-grams two texts have, and have in common."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import chain


def ngram_overlaps(
    prediction: Sequence[Hashable], reference: Sequence[Hashable], order: int
) -> list[tuple[int, int, int]]:
    """Return for n = 1..order how many n-grams are in both, in the prediction, and in the reference.

    An n-gram that one text has more often than the other is in both as often as in the one with fewer.
    """
    import numpy as np

    ids: dict[Hashable, int] = {}
    tokens = np.array([ids.setdefault(token, len(ids)) for token in chain(prediction, reference)], np.int64)
    split = len(prediction)
    left, right = tokens[:split], tokens[split:]
    left_codes, right_codes = left, right
    overlaps = []
    for n in range(1, order + 1):
        if n > 1:
            # The codes of the shorter n-grams are ranks, so these cannot overflow however many tokens there are.
            left_codes = left_codes[:-1] * len(ids) + left[n - 1 :]
            right_codes = right_codes[:-1] * len(ids) + right[n - 1 :]
        different, ranks = np.unique(np.concatenate((left_codes, right_codes)), return_inverse=True)
        left_codes, right_codes = ranks[: len(left_codes)], ranks[len(left_codes) :]
        left_counts = np.bincount(left_codes, minlength=len(different))
        right_counts = np.bincount(right_codes, minlength=len(different))
        common = int(np.minimum(left_counts, right_counts).sum())
        overlaps.append((common, len(left_codes), len(right_codes)))
    return overlaps
