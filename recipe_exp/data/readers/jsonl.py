"""JSON Lines: one record a line, plain or gzipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from recipe_exp.data.readers.files import LONG_LINE, UTF8_MARK, errors_in_one_line, lines_of, open_file
from recipe_exp.data.readers.format import Format, Head
from recipe_exp.data.readers.json_record import rows_of_json
from recipe_exp.data.readers.rows import BLANK_LINE, Rejection, Row
from recipe_exp.errors import DataError

SUFFIXES = (".jsonl", ".ndjson")

_HEAD_BYTES = 1024


def read_jsonl(path: Path) -> Iterator[Row]:
    """Yields one row for every line of the file, in order; only one line is in memory at a time.

    A line is a recipe in any of the shapes that `records` knows, or an input/output pair; a line with several
    recipes yields each. A recipe's `ingredients` and `instructions` are lists of lines or one text with line breaks.
    A line that is no record is a `Rejection`, blank lines too.

    Raises:
        DataError: the file as a whole is not JSON Lines in UTF-8 (UTF-16, one JSON list, a Git LFS pointer, a
            damaged archive), or reading it failed.
    """
    file = str(path)
    with errors_in_one_line(path), open_file(path) as stream:
        if stream.read(_HEAD_BYTES).removeprefix(UTF8_MARK).lstrip().startswith(b"["):
            raise DataError(f"{path}: is one JSON list; read it with data.format=json")
        stream.seek(0)
        for number, line in enumerate(lines_of(stream), start=1):
            if line is None:
                yield Rejection(file, number, LONG_LINE)
                continue
            # Files that were joined keep the marks of all their parts.
            text = line.removeprefix(UTF8_MARK)
            if not text or text.isspace():
                yield Rejection(file, number, BLANK_LINE)
            else:
                yield from rows_of_json(file, number, text)


def _recognises(head: Head) -> bool:
    """Whether a line is an object by itself; those that open at the margin of one indented object are not."""
    lines = [line for line in head.data.split(b"\n") if line and not line.isspace()]
    if lines and head.name.endswith(SUFFIXES):
        return lines[0].startswith(b"{") and lines[0].strip() != b"{"
    return len(lines) > 1 and any(line.startswith(b"{") and _is_json(line) for line in lines)


def _is_json(line: bytes) -> bool:
    try:
        msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


FORMAT = Format("jsonl", SUFFIXES, read_jsonl, _recognises)
