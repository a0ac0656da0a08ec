"""The files of a token cache: the token ids of one split, read at random, and where its texts stand."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from recipe_exp.data.example import Example
from recipe_exp.data.preparation.prepared import decode_record
from recipe_exp.data.prompts import example_of

_NARROW_VOCAB_SIZE = 2**16

TokenArray = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
LengthArray = npt.NDArray[np.int32]
OffsetArray = npt.NDArray[np.int64]
ScoreArray = npt.NDArray[np.float32]

TOKENS = "tokens.u16"
WIDE_TOKENS = "tokens.u32"
"""Instead of the other, where the vocabulary has more pieces than 16 bits can tell apart."""
ENDS = "ends.i64"
SOURCE_LENGTHS = "source_lengths.i32"
TARGET_LENGTHS = "target_lengths.i32"
TEXT_ENDS = "text_ends.i64"
QUALITY_SCORES = "quality_scores.f32"

_TOKEN_TYPES: dict[str, type[np.unsignedinteger[Any]]] = {TOKENS: np.uint16, WIDE_TOKENS: np.uint32}


def tokens_file(vocab_size: int) -> str:
    """Returns the name of the file that holds the ids of a vocabulary of this size, which tells their type."""
    return TOKENS if vocab_size <= _NARROW_VOCAB_SIZE else WIDE_TOKENS


def token_type(name: str) -> type[np.unsignedinteger[Any]]:
    """Returns the type of the ids in a file of this name."""
    return _TOKEN_TYPES[name]


def token_files(tokens: str) -> tuple[str, ...]:
    """Returns the names of all files of a split whose ids are in the file of this name."""
    return (tokens, ENDS, SOURCE_LENGTHS, TARGET_LENGTHS, TEXT_ENDS, QUALITY_SCORES)


class TokenSplit:
    """The token ids of one split, mapped from its folder.

    An example's sources, one for each prompt, and its target stand one after the other, so that reading one touches one
    place on disk.

    Args:
        folder: of the split.
        pad_id: the id that fills up sources in a batch.
        num_prompts: sources of each example.

    Attributes:
        source_lengths: (num_examples,) tokens of each source of the first prompt, the end-of-sequence token included.
        all_source_lengths: (num_examples, num_prompts) the same for every prompt.
        target_lengths: (num_examples,) tokens of each target, the end-of-sequence token included.
        pad_id: the id that fills up sources in a batch.
    """

    def __init__(self, folder: Path, pad_id: int, num_prompts: int = 1) -> None:
        self.all_source_lengths: LengthArray = _map(folder / SOURCE_LENGTHS, np.int32).reshape(-1, num_prompts)
        self.source_lengths: LengthArray = self.all_source_lengths[:, 0]
        self.target_lengths: LengthArray = _map(folder / TARGET_LENGTHS, np.int32)
        self.pad_id = pad_id
        self._folder = folder
        tokens = WIDE_TOKENS if (folder / WIDE_TOKENS).is_file() else TOKENS
        self._tokens: TokenArray = _map(folder / tokens, token_type(tokens))
        self._ends: OffsetArray = _map(folder / ENDS, np.int64)

    def __len__(self) -> int:
        return len(self.target_lengths)

    @property
    def num_prompts(self) -> int:
        """Sources of each example."""
        return int(self.all_source_lengths.shape[1])

    @cached_property
    def quality_scores(self) -> ScoreArray:
        """(num_examples,) in [0, 1]."""
        return _map(self._folder / QUALITY_SCORES, np.float32)

    def source(self, index: int, prompt: int = 0) -> TokenArray:
        """Returns a view of one source, (all_source_lengths[index, prompt],)."""
        start = self._start(index) + (int(self.all_source_lengths[index, :prompt].sum()) if prompt else 0)
        return self._tokens[start : start + self.all_source_lengths[index, prompt]]

    def target(self, index: int) -> TokenArray:
        """Returns a view of one target, (target_lengths[index],)."""
        start = self._start(index) + int(self.all_source_lengths[index].sum())
        return self._tokens[start : start + self.target_lengths[index]]

    def _start(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        return int(self._ends[index - 1]) if index else 0


class StoredExamples(Sequence[Example]):
    """The examples of one split as texts, read from its prepared file when they are asked for.

    Args:
        folder: of the split in the token cache, which knows where each record ends.
        records: the prepared file.
        template: makes the prompts.
    """

    def __init__(self, folder: Path, records: Path, template: str) -> None:
        self._ends: OffsetArray = _map(folder / TEXT_ENDS, np.int64)
        self._records = records
        self._template = template
        self._bytes = _map(records, np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        start = int(self._ends[position - 1]) if position else 0
        line = self._bytes[start : int(self._ends[position])].tobytes()
        return example_of(decode_record(line, self._records, position + 1).content, self._template)


def token_bytes(
    sources: Sequence[Sequence[list[int]]], targets: Sequence[list[int]], start: int, tokens: str = TOKENS
) -> dict[str, bytes]:
    """Returns what the files of a split get for some examples.

    Args:
        sources: for each prompt the source of each example.
        targets: the target of each example.
        start: tokens that are in the file already.
        tokens: name of that file, which tells their type.
    """
    lengths = np.array([[len(ids) for ids in row] for row in sources], dtype=np.int32).reshape(len(sources), -1).T
    target_lengths = np.array([len(ids) for ids in targets], dtype=np.int32)
    ends = start + np.cumsum(lengths.sum(axis=1, dtype=np.int64) + target_lengths, dtype=np.int64)
    parts = chain.from_iterable(zip(*sources, targets, strict=True))
    return {
        tokens: np.fromiter(chain.from_iterable(parts), dtype=token_type(tokens)).tobytes(),
        ENDS: ends.tobytes(),
        SOURCE_LENGTHS: np.ascontiguousarray(lengths).tobytes(),
        TARGET_LENGTHS: target_lengths.tobytes(),
    }


def _map(path: Path, dtype: type[np.generic]) -> npt.NDArray[Any]:
    # The system refuses to map an empty file.
    if path.stat().st_size == 0:
        return np.empty(0, dtype=dtype)
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))
