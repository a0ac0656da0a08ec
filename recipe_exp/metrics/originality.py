"""How much of a recipe's steps stands in the training recipes: fingerprints of their phrases, and the metric."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING
from zlib import crc32

from recipe_exp.metrics.metric import Fault, recipe_metric
from recipe_exp.metrics.reading import Reading, words_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

PHRASE_WORDS = 8
MAX_PHRASES = 4_000_000


@dataclass(frozen=True)
class Phrases:
    """32-bit fingerprints of training recipes' phrases of eight words.

    Attributes:
        packed: the sorted fingerprints, little-endian, base64.
        stride: only fingerprints divisible by it are kept, which bounds their number whatever the number of recipes.
    """

    packed: str
    stride: int = 1

    @classmethod
    def fit(cls, steps: Iterable[Sequence[str]], max_phrases: int = MAX_PHRASES) -> Phrases:
        """Return the phrases of the words of all steps."""
        import numpy as np

        found: set[int] = set()
        stride = 1
        for words in steps:
            found.update(print_ for print_ in fingerprints(tuple(words)) if print_ % stride == 0)
            while len(found) > max_phrases:
                stride *= 2
                found = {print_ for print_ in found if print_ % stride == 0}
        array = np.array(sorted(found), dtype="<u4")
        return cls(base64.b64encode(array.tobytes()).decode("ascii"), stride)

    @cached_property
    def _sorted(self) -> npt.NDArray[np.uint32]:
        import numpy as np

        return np.frombuffer(base64.b64decode(self.packed), dtype="<u4")

    def share_found(self, steps: Iterable[Sequence[str]]) -> float | None:
        """Return the share of the steps' different phrases that training has, None where there is none to look up."""
        import numpy as np

        wanted = sorted(
            {print_ for words in steps for print_ in fingerprints(tuple(words)) if print_ % self.stride == 0}
        )
        if not wanted:
            return None
        known = self._sorted
        prints = np.array(wanted, dtype="<u4")
        places = np.minimum(np.searchsorted(known, prints), max(len(known) - 1, 0))
        return float((known[places] == prints).mean()) if len(known) else 0.0


@recipe_metric(
    sees=(Fault.COPIED,),
    ignores=(
        Fault.SHUFFLED_STEPS,
        Fault.REVERSED_STEPS,
        Fault.FOREIGN_INGREDIENTS,
        Fault.SWAPPED_INGREDIENTS,
        Fault.DROPPED_INGREDIENTS,
        Fault.REMOVED_QUANTITIES,
        Fault.PERMUTED_QUANTITIES,
        Fault.SWAPPED_TITLE,
        Fault.LOOPING_STEP,
        Fault.FORBIDDEN_INGREDIENT,
    ),
)
def originality(reading: Reading) -> float | None:
    """1 minus the copy rate: the share of the steps' different phrases of eight words that no training recipe has.

    Phrases lie within a step, numbers left out, words singular. Cooks share phrases (`preheat the oven to degree`), so
    genuine recipes score a little under 1; steps of fewer than eight words are not looked at, and score 1 where
    there are no others. Blind to copies with a word changed in every eight, and to nonsense, which is original too.
    """
    if reading.knowledge is None:
        return None
    if not reading.words_in_steps:
        return 0.0
    share = reading.knowledge.phrases.share_found(reading.step_words)
    return 1.0 if share is None else 1 - share


@lru_cache(maxsize=16384)
def fingerprints(words: tuple[str, ...]) -> tuple[int, ...]:
    """Return a 32-bit fingerprint of each run of eight words."""
    starts = range(len(words) - PHRASE_WORDS + 1)
    return tuple(crc32(" ".join(words[start : start + PHRASE_WORDS]).encode()) for start in starts)


def steps_of(instructions: Iterable[Sequence[str]]) -> Iterator[tuple[str, ...]]:
    """Yield the words of every step of several recipes."""
    for steps in instructions:
        yield from map(words_of, steps)
