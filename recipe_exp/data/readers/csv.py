"""CSV: one recipe a row, with lists inside its cells as RecipeNLG and Food.com write them."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from recipe_exp.data.readers.files import LONG_LINE, UTF8_MARK, errors_in_one_line, lines_of, open_file
from recipe_exp.data.readers.format import Format, Head
from recipe_exp.data.readers.records import contents_in, key_of
from recipe_exp.data.readers.rows import BLANK_LINE, Rejection, Row, row_of
from recipe_exp.data.readers.table import is_table_of_recipes, used_columns

SUFFIXES = (".csv", ".tsv")
LONG_CELL = "cell over 128 KiB"
WRONG_NUMBER_OF_CELLS = "other number of cells than columns"

_DELIMITERS = (",", "\t", ";", "|")


def read_csv(path: Path) -> Iterator[Row]:
    """Yields one row for every row of the table, in order; only one of them is in memory at a time.

    The first line names the columns, in any case and order: a title, ingredients and instructions under one of the
    names that `records` knows, or `input` and `output`. A cell with several lines holds a list in JSON, as Python or R
    write it, or text with line breaks. Commas, tabs, semicolons or bars separate cells.

    Raises:
        DataError: no column has a known name, the file is UTF-16, a Git LFS pointer or a damaged archive, or reading
            it failed.
    """
    with errors_in_one_line(path), open_file(path) as stream:
        yield from _Table(str(path), stream).rows()


class _Table:
    def __init__(self, file: str, stream: BinaryIO) -> None:
        self._file = file
        self._lines = lines_of(stream)
        self._line_number = 0
        self._fault: str | None = None

    def rows(self) -> Iterator[Row]:
        header = next((text for text in self._texts() if text.strip()), "")
        delimiter = _delimiter_of(header)
        if delimiter is None:
            used_columns(self._file, _cells_of(header, ","))
            return
        columns = [key_of(name) for name in next(csv.reader([header], delimiter=delimiter))]
        reader = csv.reader(self._texts(), delimiter=delimiter)
        while (row := self._next_row(reader, columns)) is not None:
            yield from row

    def _next_row(self, reader: Iterator[list[str]], columns: Sequence[str]) -> list[Row] | None:
        line_number, self._fault = self._line_number + 1, None
        try:
            cells = next(reader, None)
        except csv.Error as error:
            reason = LONG_CELL if "field larger" in str(error) else "not valid CSV"
            return [Rejection(self._file, line_number, reason)]
        if cells is None:
            return None
        if self._fault is None:
            self._fault = _fault_of(cells, columns)
        if self._fault is not None:
            return [Rejection(self._file, line_number, self._fault)]
        # Of two columns with one name the first counts.
        record: dict[str, object] = dict(zip(reversed(columns), reversed(cells), strict=True))
        if "qualityscore" in record:
            record["qualityscore"] = _number_in(cells[columns.index("qualityscore")])
        return [row_of(self._file, line_number, content) for content in contents_in(record)]

    def _texts(self) -> Iterator[str]:
        """Yields lines as text; what is wrong with one is remembered for the row that it belongs to."""
        for line in self._lines:
            self._line_number += 1
            if line is None:
                self._fault = LONG_LINE
                yield "\n"
                continue
            try:
                text = line.removeprefix(UTF8_MARK).decode()
            except UnicodeDecodeError:
                self._fault, text = "not UTF-8", line.decode(errors="replace")
            if "\0" in text:
                self._fault = "NUL bytes"
            yield text


def _fault_of(cells: list[str], columns: Sequence[str]) -> str | None:
    if not any(map(str.strip, cells)):
        return BLANK_LINE
    return None if len(cells) == len(columns) else WRONG_NUMBER_OF_CELLS


def _number_in(cell: str) -> float | str | None:
    """Returns the cell's number, None if it is empty, or the cell if it is something else."""
    try:
        return float(cell) if cell.strip() else None
    except ValueError:
        return cell


def _delimiter_of(header: str) -> str | None:
    """Returns what separates the columns, or None if the line names no columns of recipes or pairs."""
    return next((mark for mark in _DELIMITERS if is_table_of_recipes(_cells_of(header, mark))), None)


def _cells_of(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def _recognises(head: Head) -> bool:
    return _delimiter_of(head.text.partition("\n")[0]) is not None


FORMAT = Format("csv", SUFFIXES, read_csv, _recognises)
