"""Which texts a tokenizer gives back exactly as they were, and what the others do not survive by."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from recipe_exp.data.tokens.tokenizer import NEWLINE, RecipeTokenizer

SPACES = "spaces in a row or at an end of a line"
COMBINATIONS = "characters that are written as one"

_STRAY_SPACES = re.compile(r"(?m)^ +| +$| {2,}")


class RoundTrips:
    """Tells whether `decode(encode(text))` is the text, and if not, why.

    Args:
        tokenizer: encodes and decodes.
    """

    def __init__(self, tokenizer: RecipeTokenizer) -> None:
        self._tokenizer = tokenizer
        # Whether a single one means anything depends on its neighbours, so neither is a cause.
        self._returned = {" ": " ", NEWLINE: NEWLINE}

    def is_exact(self, text: str, ids: Sequence[int]) -> bool:
        """Whether the ids of a whole text, never cut, are decoded to that text."""
        return self._tokenizer.unk_id not in ids and self._tokenizer.is_normal(text)

    def causes(self, text: str) -> Counter[str]:
        """Returns what changes a text that is not exact, and how often it occurs there.

        A character is a cause if its own round trip is not exact. `SPACES` and `COMBINATIONS` name what no character
        causes alone.
        """
        found = Counter({one: count for one, count in Counter(text).items() if self.returned(one) != one})
        if num_spaces := len(_STRAY_SPACES.findall(text)):
            found[SPACES] = num_spaces
        return found or Counter({COMBINATIONS: 1})

    def returned(self, character: str) -> str:
        """Returns what comes back of a character; empty if nothing does."""
        if character not in self._returned:
            self._returned[character] = self._tokenizer.decode(self._tokenizer.encode(character))
        return self._returned[character]
