"""What a reader is: its name, the files it reads, and how their content is recognised."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from recipe_exp.data.readers.rows import Row

HEAD_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Head:
    """What a format is recognised by.

    Attributes:
        name: the file's name in lower case, without `.gz`.
        data: its first bytes, unzipped, from the first that is neither blank nor a byte order mark.
    """

    name: str
    data: bytes

    @property
    def text(self) -> str:
        """The first bytes as text; what is not UTF-8 is replaced."""
        return self.data.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")


@dataclass(frozen=True, slots=True)
class Format:
    """A format of files.

    Attributes:
        name: what `data.format` calls it.
        suffixes: how names of such files usually end; in a folder only these are read.
        read: yields a row for everything in a file that stands for a record, in order and in constant memory.
        recognises: whether a file is in this format, judged by its beginning.
        is_named_by_file: whether a recipe may take its title from the name of its file, which then is part of the data.
        version: what changes when the same file is read otherwise, of a format that is not part of this package.
    """

    name: str
    suffixes: tuple[str, ...]
    read: Callable[[Path], Iterator[Row]]
    recognises: Callable[[Head], bool]
    is_named_by_file: bool = False
    version: str = ""
