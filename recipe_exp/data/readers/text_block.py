"""Recipes in text files, one a file or several: their lines, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from recipe_exp.data.readers.files import LONG_LINE, read_text
from recipe_exp.data.readers.rows import Record, Rejection, Row
from recipe_exp.recipes.recipe import Recipe

LONG_RECIPE = "recipe over 1 MiB"
LONG_FILE = LONG_LINE.replace("line", "file")
MAX_CHARACTERS = 2**20


def rows_of_document(path: Path, parse: Callable[[str], Recipe]) -> Iterator[Row]:
    """Yields the recipe that `parse` makes of a file's text, or why there is none; nothing for a blank file.

    Raises:
        DataError: the file is UTF-16, a Git LFS pointer or a damaged archive, or reading it failed.
    """
    try:
        text = read_text(path)
    except UnicodeDecodeError:
        yield Rejection(str(path), 1, "not UTF-8")
        return
    if text is None:
        yield Rejection(str(path), 1, LONG_FILE)
    elif "\0" in text:
        yield Rejection(str(path), 1, "NUL bytes")
    elif text.strip():
        yield Record(str(path), 1, parse(text))


def decoded(line: bytes | None) -> str:
    """Returns a line's text without its end and a byte order mark; what is not UTF-8 is replaced, tabs by spaces."""
    return (line or b"").decode("utf-8-sig", errors="replace").rstrip().expandtabs()


class TextBlock:
    """Collects the lines of a recipe, up to `MAX_CHARACTERS` of them.

    Args:
        line_number: of the line that opens it.
    """

    def __init__(self, line_number: int) -> None:
        self._line_number = line_number
        self._texts: list[str] = []
        self._num_characters = 0
        self._fault: str | None = None

    def add(self, line: bytes | None, text: str) -> None:
        """Adds a line and its text as `decoded` returns it; None is a line that was too long."""
        if line is None:
            self._fault = LONG_LINE
        elif b"\0" in line:
            self._fault = "NUL bytes"
        elif "\ufffd" in text:
            self._fault = "not UTF-8"
        self._num_characters += len(text) + 1
        if self._num_characters > MAX_CHARACTERS:
            self._fault = self._fault or LONG_RECIPE
        else:
            self._texts.append(text)

    def row(self, file: str, parse: Callable[[list[str]], Recipe]) -> Row:
        """Returns the recipe that `parse` makes of the lines, or why there is none."""
        if self._fault is not None:
            return Rejection(file, self._line_number, self._fault)
        return Record(file, self._line_number, parse(self._texts))
