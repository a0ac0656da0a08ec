"""MasterCook: the two exchange formats of the program of that name, XML (`.mx2`) and text (`.mxp`)."""

from __future__ import annotations

import html.entities
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO
from xml.parsers import expat

from recipe_exp.data.readers.files import UTF8_MARK, errors_in_one_line, lines_of, open_file
from recipe_exp.data.readers.format import HEAD_BYTES, Format, Head
from recipe_exp.data.readers.rows import Record, Rejection, Row
from recipe_exp.data.readers.text_block import LONG_RECIPE, MAX_CHARACTERS, TextBlock, decoded
from recipe_exp.recipes.recipe import Recipe

SUFFIXES = (".mx2", ".mxp")
LONG_ELEMENT = "XML element over 1 MiB"
NOT_XML = "not valid XML"

_DECLARATION = re.compile(rb"\s*<\?xml[^>]*\?>")
_ENCODING = re.compile(rb"""encoding\s*=\s*["']([\w.:-]+)["']""")
_START = re.compile(r"\s*\*\s*Exported\s+(?:from|for)\s+MasterCook.*", re.IGNORECASE)
_END = re.compile(r"\s*(?:- ){8,}-?\s*")
_COLUMN_HEADS = re.compile(r"\s*Amount\s+Measure\s+Ingredient.*", re.IGNORECASE)
_RULER = re.compile(r"\s*-{4,}\s+-{4,}\s+-{4,}\s*")
_FIELD = re.compile(r"(?:Recipe By|Serving Size|Preparation Time|Start to Finish Time|Categories)\s*:.*", re.IGNORECASE)
# What the program writes below the directions.
_CLOSING_FIELD = re.compile(r"(?:Source|Copyright|Yield|Description|[ST]\([^()]*\)):\s*")
# Columns of the amount, the measure and the ingredient.
_AMOUNT, _MEASURE, _FOOD = slice(0, 10), slice(10, 24), slice(24, None)
_PREPARATION = re.compile(r"\s+(?:-\s+)?--\s+")
_CHUNK_BYTES = 64 * 1024


def read_mastercook(path: Path) -> Iterator[Row]:
    """Yields one row for every recipe in the file, in order; only one of them is in memory at a time.

    What stands behind a fault in XML is lost, since no one can tell where its elements begin.

    Raises:
        DataError: the file is UTF-16, a Git LFS pointer or a damaged archive, or reading it failed.
    """
    with errors_in_one_line(path), open_file(path) as stream:
        is_xml = stream.read(HEAD_BYTES).removeprefix(UTF8_MARK).lstrip().startswith(b"<")
        stream.seek(0)
        yield from _read_xml(str(path), stream) if is_xml else _read_text(str(path), stream)


def _read_xml(file: str, stream: BinaryIO) -> Iterator[Row]:
    chunk = stream.read(_CHUNK_BYTES).removeprefix(UTF8_MARK)
    # The program writes a declaration that no parser takes: its parts are in the wrong order.
    declaration = _DECLARATION.match(chunk)
    encoding = _ENCODING.search(declaration[0]) if declaration else None
    elements = _Elements(file, encoding[1].decode("ascii", "replace") if encoding else None)
    chunk = chunk[declaration.end() :] if declaration else chunk
    num_bytes = 0
    while True:
        try:
            elements.parser.Parse(chunk, not chunk)
        except (expat.ExpatError, ValueError, LookupError) as error:
            yield from elements.take()
            yield Rejection(file, getattr(error, "lineno", elements.parser.CurrentLineNumber), NOT_XML)
            return
        yield from elements.take()
        if not chunk:
            return
        num_bytes += len(chunk)
        # Of a name or an attribute the parser looks at the beginning again with every piece.
        if num_bytes - elements.parser.CurrentByteIndex > MAX_CHARACTERS:
            yield Rejection(file, elements.parser.CurrentLineNumber, LONG_ELEMENT)
            return
        chunk = stream.read(_CHUNK_BYTES)


class _Elements:
    """Follows the elements of the XML and makes a row of every recipe that ends."""

    def __init__(self, file: str, encoding: str | None) -> None:
        self._file = file
        self._rows: list[Row] = []
        self._line_number = 0
        self._title = ""
        self._ingredients: list[str] = []
        self._steps: list[str] = []
        self._text: list[str] | None = None
        self._num_characters = 0
        self.parser = expat.ParserCreate(encoding)
        # Names such as &eacute; belong to a file that the program keeps for itself.
        self.parser.UseForeignDTD(True)
        self.parser.ExternalEntityRefHandler = lambda *_: 1
        self.parser.SkippedEntityHandler = lambda name, _: self._add(html.entities.html5.get(f"{name};", ""))
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._add

    def take(self) -> list[Row]:
        rows, self._rows = self._rows, []
        return rows

    def _start(self, name: str, attributes: Mapping[str, str]) -> None:
        if name == "RcpE":
            self._line_number, self._title = self.parser.CurrentLineNumber, attributes.get("name", "")
            self._ingredients, self._steps, self._num_characters = [], [], len(self._title)
        elif name == "IngR":
            words = [" ".join(attributes.get(key, "").split()) for key in ("qty", "unit", "name")]
            _add_ingredient(self._ingredients, words)
            self._num_characters += sum(map(len, words))
        elif name in ("IPrp", "DirT"):
            self._text = []

    def _add(self, text: str) -> None:
        if self._text is not None and self._num_characters <= MAX_CHARACTERS:
            self._text.append(text)
            self._num_characters += len(text)

    def _end(self, name: str) -> None:
        text = " ".join("".join(self._text or ()).split())
        if name == "IPrp" and self._ingredients and text:
            self._ingredients[-1] = f"{self._ingredients[-1].rstrip(' ,-')}, {text}"
        elif name == "DirT" and text:
            self._steps.append(text)
        elif name == "RcpE":
            self._rows.append(self._row())
        if name in ("IPrp", "DirT"):
            self._text = None

    def _row(self) -> Row:
        if self._num_characters > MAX_CHARACTERS:
            return Rejection(self._file, self._line_number, LONG_RECIPE)
        recipe = Recipe(self._title, tuple(self._ingredients), tuple(_without_closing_fields(self._steps)))
        return Record(self._file, self._line_number, recipe)


def _read_text(file: str, stream: BinaryIO) -> Iterator[Row]:
    recipe: TextBlock | None = None
    for number, line in enumerate(lines_of(stream), start=1):
        text = decoded(line)
        if _START.fullmatch(text):
            if recipe is not None:
                yield recipe.row(file, _parse)
            recipe = TextBlock(number)
        elif recipe is not None and _END.fullmatch(text):
            yield recipe.row(file, _parse)
            recipe = None
        elif recipe is not None:
            recipe.add(line, text)
    if recipe is not None:
        yield recipe.row(file, _parse)


def _parse(lines: list[str]) -> Recipe:
    title = next((line.strip() for line in lines if line.strip() and not _FIELD.match(line.strip())), "")
    start = next((index + 1 for index, line in enumerate(lines) if _RULER.fullmatch(line)), None)
    if start is None:
        start = next((index + 1 for index, line in enumerate(lines) if _COLUMN_HEADS.fullmatch(line)), len(lines))
    ingredients: list[str] = []
    end = start
    for end in range(start, len(lines) + 1):
        if end == len(lines) or (not lines[end].strip() and ingredients):
            break
        words = [lines[end][columns].strip() for columns in (_AMOUNT, _MEASURE, _FOOD)]
        _add_ingredient(ingredients, [*words[:2], _PREPARATION.sub(", ", words[2])])
    return Recipe(title, tuple(ingredients), tuple(_without_closing_fields(_paragraphs(lines[end:]))))


def _add_ingredient(ingredients: list[str], words: list[str]) -> None:
    """Adds a line of amount, measure and food; one that goes on from the line above it is joined to that."""
    amount, measure, food = words
    if ingredients and not amount and not measure and ingredients[-1].endswith((",", " and", " or")):
        ingredients[-1] = f"{ingredients[-1]} {food}"
    elif any(words):
        ingredients.append(" ".join(word for word in (amount, measure, food) if word))


def _paragraphs(lines: list[str]) -> Iterator[str]:
    paragraph: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            paragraph.append(line.strip())
        elif paragraph:
            yield " ".join(paragraph)
            paragraph = []


def _without_closing_fields(steps: Iterator[str] | list[str]) -> Iterator[str]:
    for step in steps:
        if _CLOSING_FIELD.match(step):
            return
        yield step


def _recognises(head: Head) -> bool:
    if head.data.startswith(b"<"):
        return b"<mx2" in head.data[:4096]
    return any(_START.fullmatch(line) for line in head.text.split("\n", 20)[:20])


FORMAT = Format("mastercook", SUFFIXES, read_mastercook, _recognises)
