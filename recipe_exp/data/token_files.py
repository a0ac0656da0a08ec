"""The files of a token cache: token ids and texts of one split, written in order and read at random."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Self, overload

import msgspec
import numpy as np
import numpy.typing as npt

from recipe_exp.data.example import Example

MAX_VOCAB_SIZE = 2**16

TokenArray = npt.NDArray[np.uint16]
LengthArray = npt.NDArray[np.int32]
OffsetArray = npt.NDArray[np.int64]

_TOKENS = "tokens.u16"
_ENDS = "ends.i64"
_SOURCE_LENGTHS = "source_lengths.i32"
_TARGET_LENGTHS = "target_lengths.i32"
_TEXTS = "texts.jsonl"
_TEXT_ENDS = "text_ends.i64"

_EXAMPLES = msgspec.json.Decoder(Example)


class TokenSplit:
    """The token ids of one split, mapped from the folder into which a `TokenWriter` wrote them.

    An example's source and target stand one after the other, so that reading one touches one place on disk.

    Attributes:
        source_lengths: (num_examples,) tokens of each source, the end-of-sequence token included.
        target_lengths: (num_examples,) tokens of each target, the end-of-sequence token included.
        pad_id: the id that fills up sources in a batch.
    """

    def __init__(self, folder: Path, pad_id: int) -> None:
        self.source_lengths: LengthArray = _map(folder / _SOURCE_LENGTHS, np.int32)
        self.target_lengths: LengthArray = _map(folder / _TARGET_LENGTHS, np.int32)
        self.pad_id = pad_id
        self._tokens: TokenArray = _map(folder / _TOKENS, np.uint16)
        self._ends: OffsetArray = _map(folder / _ENDS, np.int64)

    def __len__(self) -> int:
        return len(self.source_lengths)

    def source(self, index: int) -> TokenArray:
        """Returns a view of one source, (source_lengths[index],)."""
        start = self._start(index)
        return self._tokens[start : start + self.source_lengths[index]]

    def target(self, index: int) -> TokenArray:
        """Returns a view of one target, (target_lengths[index],)."""
        start = self._start(index) + int(self.source_lengths[index])
        return self._tokens[start : start + self.target_lengths[index]]

    def _start(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        return int(self._ends[index]) - int(self.source_lengths[index]) - int(self.target_lengths[index])


class StoredExamples(Sequence[Example]):
    """The examples of one split as texts, read from disk when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self._texts = _map(folder / _TEXTS, np.uint8)
        self._ends = _map(folder / _TEXT_ENDS, np.int64)

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
        return _EXAMPLES.decode(self._texts[start : int(self._ends[position])].data)


class _SplitWriter:
    """Opens its files below a folder, which it makes, and closes them together."""

    names: tuple[str, ...]

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._files: dict[str, BinaryIO] = {name: (folder / name).open("wb") for name in self.names}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()


class TextWriter(_SplitWriter):
    """Writes the texts of one split."""

    names = (_TEXTS, _TEXT_ENDS)
    _num_bytes = 0

    def write(self, example: Example) -> None:
        """Appends one example."""
        self._num_bytes += self._files[_TEXTS].write(msgspec.json.encode(example) + b"\n")
        self._files[_TEXT_ENDS].write(np.int64(self._num_bytes).tobytes())


class TokenWriter(_SplitWriter):
    """Writes the token ids of one split."""

    names = (_TOKENS, _ENDS, _SOURCE_LENGTHS, _TARGET_LENGTHS)
    _num_tokens = 0

    def write(self, sources: list[list[int]], targets: list[list[int]]) -> None:
        """Appends the sources and targets of as many examples."""
        pairs = chain.from_iterable(zip(sources, targets, strict=True))
        self._files[_TOKENS].write(np.fromiter(chain.from_iterable(pairs), dtype=np.uint16).tobytes())
        source_lengths = np.array([len(ids) for ids in sources], dtype=np.int32)
        target_lengths = np.array([len(ids) for ids in targets], dtype=np.int32)
        ends = self._num_tokens + np.cumsum(source_lengths + target_lengths, dtype=np.int64)
        self._files[_SOURCE_LENGTHS].write(source_lengths.tobytes())
        self._files[_TARGET_LENGTHS].write(target_lengths.tobytes())
        self._files[_ENDS].write(ends.tobytes())
        self._num_tokens = int(ends[-1]) if len(ends) else self._num_tokens


def _map(path: Path, dtype: type[np.generic]) -> npt.NDArray[Any]:
    # The system refuses to map an empty file.
    if path.stat().st_size == 0:
        return np.empty(0, dtype=dtype)
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))
