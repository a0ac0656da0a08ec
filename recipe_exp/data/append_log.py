"""Files that grow together, and go on after a kill where the last complete block ended."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Generic, Self, TypeVar

import msgspec

from recipe_exp.files import boot_id

T = TypeVar("T")


class _Head(msgspec.Struct):
    boot: str
    origin: str


class _Block(msgspec.Struct, Generic[T]):
    sizes: dict[str, int]
    state: T


class AppendLog(Generic[T]):
    """Files of one folder that are appended to, block by block, with what was known after each block.

    A block counts once `commit` has returned; what a killed process wrote of the next one is cut off when the files
    are opened again. What a power cut may have taken is not relied on: after another boot the files begin anew.

    Args:
        folder: made if it is missing.
        log_name: name of the file that says what is complete.
        names: of the files.
        initial: the state before the first block; its type is what is stored.
        origin: what the content is made from; after another one the files begin anew.

    Attributes:
        state: what was given to the last `commit`.
        is_resumed: whether there was something to go on from.
    """

    def __init__(self, folder: Path, log_name: str, names: Sequence[str], initial: T, origin: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.state = initial
        self._log_path = folder / log_name
        self._head = _Head(boot_id(), origin)
        sizes, length = self._last_block(folder, names)
        self.is_resumed = sizes is not None
        if sizes is None:
            self._log_path.write_bytes(msgspec.json.encode(self._head) + b"\n")
            sizes = dict.fromkeys(names, 0)
        else:
            _truncate(self._log_path, length)
        for name in names:
            _truncate(folder / name, sizes[name])
        self._files: dict[str, BinaryIO] = {name: (folder / name).open("ab") for name in names}
        self._log = self._log_path.open("ab")

    def append(self, name: str, content: bytes) -> None:
        """Adds to one of the files."""
        self._files[name].write(content)

    def size(self, name: str) -> int:
        """Returns the bytes of a file, those that are not committed included."""
        return self._files[name].tell()

    def commit(self, state: T) -> None:
        """Makes what was appended a complete block."""
        self.state = state
        for file in self._files.values():
            file.flush()
        sizes = {name: file.tell() for name, file in self._files.items()}
        self._log.write(msgspec.json.encode(_Block(sizes, state)) + b"\n")
        self._log.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in (*self._files.values(), self._log):
            # A disk that is full fails again here, and the first error says so.
            with suppress(OSError):
                file.close()

    def _last_block(self, folder: Path, names: Sequence[str]) -> tuple[dict[str, int] | None, int]:
        """Returns the sizes of the last block that is whole, if there is one, and how long the log is with it."""
        found, length, found_length = None, 0, 0
        actual = {name: (folder / name).stat().st_size for name in names if (folder / name).exists()}
        try:
            content = self._log_path.read_bytes()
        except FileNotFoundError:
            return None, 0
        head, *lines = content.splitlines(keepends=True) or [b""]
        try:
            if not self._head.boot or msgspec.json.decode(head, type=_Head) != self._head:
                return None, 0
            length = len(head)
            for line in lines:
                block = msgspec.json.decode(line, type=_Block[type(self.state)])  # type: ignore[misc]
                if not line.endswith(b"\n") or any(block.sizes[name] > actual.get(name, 0) for name in names):
                    break
                length += len(line)
                found, found_length, self.state = block.sizes, length, block.state
        except (msgspec.MsgspecError, UnicodeDecodeError, KeyError):
            pass
        return found, found_length


def _truncate(path: Path, size: int) -> None:
    with path.open("ab") as file:
        file.truncate(size)
