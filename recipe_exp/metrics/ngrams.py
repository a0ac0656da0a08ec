"""Sufficient statistics of BLEU and chrF: how many n-grams two texts have, and have in common."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Sequence
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def ngram_overlaps(
    prediction: Sequence[Hashable], reference: Sequence[Hashable], order: int
) -> list[tuple[int, int, int]]:
    """Return for n = 1..order how many n-grams are in both, in the prediction, and in the reference.

    An n-gram that one text has more often than the other is in both as often as in the one with fewer.

    Args:
        prediction: tokens, or a string of characters.
        reference: the same.
        order: the longest n-gram.
    """
    import numpy as np

    tokens, num_different = _numbered(prediction, reference)
    split = len(prediction)
    left, right = tokens[:split], tokens[split:]
    left_codes, right_codes = left, right
    overlaps = []
    for n in range(1, order + 1):
        if n > 1:
            # The codes of the shorter n-grams are ranks, so these cannot overflow however many tokens there are.
            left_codes = left_codes[:-1] * num_different + left[n - 1 :]
            right_codes = right_codes[:-1] * num_different + right[n - 1 :]
        different, ranks = np.unique(np.concatenate((left_codes, right_codes)), return_inverse=True)
        left_codes, right_codes = ranks[: len(left_codes)], ranks[len(left_codes) :]
        left_counts = np.bincount(left_codes, minlength=len(different))
        right_counts = np.bincount(right_codes, minlength=len(different))
        common = int(np.minimum(left_counts, right_counts).sum())
        overlaps.append((common, len(left_codes), len(right_codes)))
    return overlaps


def _numbered(prediction: Sequence[Hashable], reference: Sequence[Hashable]) -> tuple[npt.NDArray[np.int64], int]:
    """Return a number for each token of both, and a number that none of them reaches."""
    import numpy as np

    if isinstance(prediction, str) and isinstance(reference, str):
        characters = (prediction + reference).encode("utf-32-le", "surrogatepass")
        return np.frombuffer(characters, np.uint32).astype(np.int64), sys.maxunicode + 1
    ids: dict[Hashable, int] = {}
    numbers = [ids.setdefault(token, len(ids)) for token in chain(prediction, reference)]
    return np.array(numbers, np.int64), len(ids)
