"""JSON: one record or several, alone, in a list, by their id, or in linked data (schema.org)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from recipe_exp.data.readers.files import MAX_LINE_BYTES, UTF8_MARK, errors_in_one_line, open_file
from recipe_exp.data.readers.format import HEAD_BYTES, Format, Head
from recipe_exp.data.readers.json_record import NO_OBJECT, NOT_JSON, rows_of_json
from recipe_exp.data.readers.json_scan import Piece, inner_objects, top_level_objects
from recipe_exp.data.readers.rows import Rejection, Row

SUFFIXES = (".json", ".jsonld")
LONG_RECORD = f"record over {MAX_LINE_BYTES // 2**20} MiB"


def read_json(path: Path) -> Iterator[Row]:
    """Yields one row for every record in the file, in order; only one of them is in memory at a time.

    The file is a list of records, an object of records by their id, an object with a list of records, linked data in
    which recipes stand anywhere, one record, or several one after the other. `NaN` and line breaks inside strings are
    taken. A row's line is where its record begins; one of several in an object of up to 16 MiB has that object's.

    Raises:
        DataError: the file is UTF-16, a Git LFS pointer or a damaged archive, or reading it failed.
    """
    with errors_in_one_line(path):
        for piece in _pieces(path):
            yield from _rows(str(path), piece)


def _pieces(path: Path) -> Iterator[Piece]:
    """Yields the objects that stand for records: those inside a list, else the outermost ones.

    No record is as large as the first object of a large collection, so then the records are those inside it.
    """
    with open_file(path) as stream:
        is_list = stream.read(HEAD_BYTES).removeprefix(UTF8_MARK).lstrip().startswith(b"[")
        stream.seek(0)
        if not is_list:
            pieces = top_level_objects(stream, MAX_LINE_BYTES)
            first = next(pieces, None)
            if first is None or first.fault != "too long":
                yield from () if first is None else (first,)
                yield from pieces
                return
            stream.seek(0)
        yield from inner_objects(stream, MAX_LINE_BYTES)


def _rows(file: str, piece: Piece) -> Iterator[Row]:
    match piece.fault:
        case None:
            yield from rows_of_json(file, piece.line_number, piece.text, lenient=True)
        case "too long":
            yield Rejection(file, piece.line_number, LONG_RECORD)
        case "no object":
            yield Rejection(file, piece.line_number, NO_OBJECT)
        case "no end":
            yield Rejection(file, piece.line_number, NOT_JSON)


def _recognises(head: Head) -> bool:
    return head.data.startswith((b"{", b"["))


FORMAT = Format("json", SUFFIXES, read_json, _recognises)
