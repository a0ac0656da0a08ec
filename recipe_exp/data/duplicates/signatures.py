"""MinHash keys of texts: similar texts have a key in common, texts that have little in common hardly ever.

Broder, "On the resemblance and containment of documents", 1997; the bands after Indyk and Motwani, 1998. A text's
minimum over one permutation of all shingles equals that of another text with the probability of their Jaccard
similarity J. A key stands for the minima of one band, so two texts share at least one of theirs with a probability
of 1 - (1 - J^5)^32: 0.999997 at J = 0.8, 0.997 at 0.7, 0.64 at 0.5 and 0.07 at 0.3.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recipe_exp.data.duplicates.shingles import CountArray, HashArray, mix

NUM_BANDS = 32
BAND_ROWS = 5
NO_WORDS = 0
"""The key, in every band, of a text without words, which is similar to none."""

# As many runs as stay in a core's cache while every permutation passes over them.
_CHUNK_TEXTS = 128
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_NUM_PERMUTATIONS = NUM_BANDS * BAND_ROWS
_STREAM = mix(np.arange(1, 2 * _NUM_PERMUTATIONS + 1, dtype=np.uint64) * _GOLDEN)
_MULTIPLIERS = (_STREAM[:_NUM_PERMUTATIONS] >> np.uint64(32)).astype(np.uint32) | np.uint32(1)
_ADDENDS = (_STREAM[_NUM_PERMUTATIONS:] >> np.uint64(32)).astype(np.uint32)


def signatures(sets: Sequence[HashArray]) -> HashArray:
    """Returns one key per band for the shingles of every text, (len(sets), NUM_BANDS), or `NO_WORDS`.

    A text's keys depend on nothing but the text.
    """
    keys = np.empty((len(sets), NUM_BANDS), dtype=np.uint64)
    for start in range(0, len(sets), _CHUNK_TEXTS):
        chunk = sets[start : start + _CHUNK_TEXTS]
        counts = np.array([len(one) for one in chunk], dtype=np.int64)
        keys[start : start + len(chunk)] = _keys(np.concatenate(chunk), counts)
    return keys


def _keys(runs: HashArray, counts: CountArray) -> HashArray:
    keys = np.full((len(counts), NUM_BANDS), NO_WORDS, dtype=np.uint64)
    has_words = counts > 0
    if not has_words.any():
        return keys
    starts = (np.cumsum(counts) - counts)[has_words]
    # 32 bits are enough to tell the runs of two texts apart, and twice as many of them are permuted at a time.
    values = (runs >> np.uint64(32)).astype(np.uint32)
    permuted = np.empty_like(values)
    minima = np.empty((_NUM_PERMUTATIONS, len(starts)), dtype=np.uint32)
    for minimum, multiplier, addend in zip(minima, _MULTIPLIERS, _ADDENDS, strict=True):
        np.multiply(values, multiplier, out=permuted)
        np.add(permuted, addend, out=permuted)
        np.minimum.reduceat(permuted, starts, out=minimum)
    bands = minima.reshape(NUM_BANDS, BAND_ROWS, len(starts)).astype(np.uint64)
    folded = bands[:, 0]
    for row in range(1, BAND_ROWS):
        folded = folded * _GOLDEN + bands[:, row]
    folded = mix(folded)
    keys[has_words] = np.where(folded == NO_WORDS, np.uint64(1), folded).T
    return keys
