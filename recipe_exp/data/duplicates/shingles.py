"""The one definition of how similar two texts are: the Jaccard similarity of their sets of four-word runs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

SHINGLE_WORDS = 4

HashArray: TypeAlias = npt.NDArray[np.uint64]
CountArray: TypeAlias = npt.NDArray[np.int64]

_WORD = re.compile(r"[^\W_]+")
_MAX_CACHED_WORDS = 2**16
_MULTIPLIER = 0x9E6C63D0876A9A47
_POWERS = tuple(np.uint64(pow(_MULTIPLIER, power, 2**64)) for power in reversed(range(SHINGLE_WORDS)))
_FILLER = ""


def words_of(text: str) -> list[str]:
    """Returns the casefolded runs of letters and digits, in order; accents are kept, everything else parts words."""
    return _WORD.findall(text.casefold())


def shingle_runs(texts: Iterable[str]) -> tuple[HashArray, CountArray]:
    """Returns the hashes of every text's four-word runs, in order and with repetitions.

    A text of one to three words has one run, of all its words; a text without words has none. A hash has 64 bits and
    is the same on every machine: two different runs have equal ones with a probability of 5e-20, so that some pair
    among a million different runs does with one of 3e-8.

    Returns:
        (num_runs,) hashes, those of one text side by side, and (num_texts,) how many belong to each text.
    """
    words: list[str] = []
    num_words: list[int] = []
    for text in texts:
        found = words_of(text)
        if 0 < len(found) < SHINGLE_WORDS:
            found += [_FILLER] * (SHINGLE_WORDS - len(found))
        words += found
        num_words.append(len(found))
    lengths = np.array(num_words, dtype=np.int64)
    counts = np.maximum(lengths - (SHINGLE_WORDS - 1), 0)
    if not words:
        return np.empty(0, dtype=np.uint64), counts
    hashes = np.frombuffer(b"".join(map(_WORD_HASHES.__getitem__, words)), dtype="<u8").astype(np.uint64, copy=False)
    num_positions = len(hashes) - (SHINGLE_WORDS - 1)
    runs = np.zeros(num_positions, dtype=np.uint64)
    for offset, power in enumerate(_POWERS):
        runs += hashes[offset : offset + num_positions] * power
    return mix(runs[_is_within_one_text(lengths, num_positions)]), counts


def shingle_sets(texts: Iterable[str]) -> list[HashArray]:
    """Returns for every text the sorted hashes of its different four-word runs."""
    runs, counts = shingle_runs(texts)
    ends = np.cumsum(counts).tolist()
    return [_sorted_set(runs[end - count : end]) for end, count in zip(ends, counts.tolist(), strict=True)]


def jaccard(first: str, second: str) -> float:
    """Returns the share of the two texts' different four-word runs that are in both; 0 for a text without words."""
    return similarity(*shingle_sets([first, second]))


def similarity(first: HashArray, second: HashArray) -> float:
    """Returns the Jaccard similarity of two sets as `shingle_sets` makes them; 0 if one is empty."""
    both = np.concatenate((first, second))
    both.sort()
    num_shared = int(np.count_nonzero(both[1:] == both[:-1]))
    return num_shared / (len(both) - num_shared) if num_shared else 0.0


def mix(values: HashArray) -> HashArray:
    """Returns 64-bit integers in whose bits every bit of the given ones has a part (the finalizer of SplitMix64).

    Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014. It is a bijection.
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _is_within_one_text(lengths: CountArray, num_positions: int) -> npt.NDArray[np.bool_]:
    """Returns for every position whether the run that begins there ends in the same text."""
    is_within = np.ones(num_positions, dtype=np.bool_)
    ends = np.cumsum(lengths)
    inner_ends = ends[(ends > 0) & (ends < ends[-1])]
    for distance in range(1, SHINGLE_WORDS):
        is_within[inner_ends - distance] = False
    return is_within


def _sorted_set(hashes: HashArray) -> HashArray:
    ordered = np.sort(hashes)
    is_first = np.ones(len(ordered), dtype=np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=is_first[1:])
    return ordered[is_first]


class _WordHashes(dict[str, bytes]):
    """The eight bytes that stand for a word, computed once for the words in use."""

    def __missing__(self, word: str) -> bytes:
        if len(self) >= _MAX_CACHED_WORDS:
            self.clear()
        # Python's own hash differs from process to process.
        digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        self[word] = digest
        return digest


_WORD_HASHES = _WordHashes()
