"""A few bytes of each text that bound how similar it can be to another, so that most pairs need not be read.

A bitmap has a bit for every shingle, chosen by its hash. Each bit in which two bitmaps differ tells of a shingle that
one text has and the other has not (Sandes, Teodoro and Melo, "Bitmap filter: speeding up exact set similarity joins",
2020).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from recipe_exp.data.duplicates.shingles import HashArray

_BITS = 512
SKETCH_WORDS = _BITS // 64 + 1


def sketches(sets: Sequence[HashArray]) -> HashArray:
    """Returns the bitmap of each set of shingles and then its size, (len(sets), SKETCH_WORDS)."""
    sizes = np.array([len(one) for one in sets], dtype=np.int64)
    bits = np.zeros((len(sets), _BITS), dtype=np.bool_)
    if len(sets):
        places = (np.concatenate(sets) % np.uint64(_BITS)).astype(np.int64)
        bits[np.repeat(np.arange(len(sets)), sizes), places] = True
    return np.hstack((np.packbits(bits, axis=1).view(np.uint64), sizes[:, None].astype(np.uint64)))


def most_similar(some: HashArray, others: HashArray) -> npt.NDArray[np.float64]:
    """Returns what the Jaccard similarity of each pair is at most, (num_pairs,), given the sketches of both."""
    num_different = np.bitwise_count(some[:, :-1] ^ others[:, :-1]).sum(axis=1, dtype=np.int64)
    sizes, other_sizes = some[:, -1].astype(np.int64), others[:, -1].astype(np.int64)
    num_different = np.maximum(num_different, np.abs(sizes - other_sizes))
    total = sizes + other_sizes
    # Of total shingles d are in one set alone and the others are counted twice: J = (total - d) / (total + d).
    result: npt.NDArray[np.float64] = (total - num_different) / np.maximum(total + num_different, 1)
    return result
