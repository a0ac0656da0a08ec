"""Meal-Master: the exchange format of the program of that name (versions 7 and 8), with one or two columns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from recipe_exp.data.readers.files import errors_in_one_line, lines_of, open_file
from recipe_exp.data.readers.format import Format, Head
from recipe_exp.data.readers.rows import Row
from recipe_exp.data.readers.text_block import TextBlock, decoded
from recipe_exp.recipes.recipe import Recipe

SUFFIXES = (".mmf", ".mm")

_START = re.compile(r"(?:M{5}|-{5}).*meal-?master", re.IGNORECASE)
_END = re.compile(r"M{5}-*\s*|-{5}\s*")
_SECTION = re.compile(r"(?:M{5}|-{5})-*([^-].*?)-*\s*")
_FIELD = re.compile(r"\s*(title|categories|yield|servings)\s*:\s*(.*)", re.IGNORECASE)
# The amount ends in column 7, the unit is in columns 9 and 10, the food begins in column 12; the second column of
# ingredients is the same 40 or 41 characters further right.
_INGREDIENT = re.compile(r"( {0,7}[0-9 ./-]{0,7}) ([A-Za-z ]{2}) (\S.*)")
_SECOND_COLUMN = re.compile(r"(.{36,41}?) ?((?: |[0-9 ./-]){7} (?:[A-Za-z]{1,2} ?|  ) ?\S.*)")
_CONTINUATION = re.compile(r"-+\s*")
_RULER = re.compile(r"[~:]?[-=*~]{4,}")

_CODES = """
    x= ea= sm=small md=medium lg=large cn=can pk=package pn=pinch dr=drop ds=dash ct=carton bn=bunch sl=slice
    t=tsp ts=tsp T=tbsp tb=tbsp c=cup pt=pint qt=quart ga=gallon cb=ml
    """
_UNITS = dict(code.split("=") for code in _CODES.split()) | {"fl": "fl oz"}


def read_mealmaster(path: Path) -> Iterator[Row]:
    """Yields one row for every recipe in the file, in order; only one of them is in memory at a time.

    The two-letter codes of units are written out. The paragraphs below the ingredients are the steps. Text in front of
    the first recipe and between two is left out.

    Raises:
        DataError: the file is UTF-16, a Git LFS pointer or a damaged archive, or reading it failed.
    """
    file = str(path)
    recipe: TextBlock | None = None
    with errors_in_one_line(path), open_file(path) as stream:
        for number, line in enumerate(lines_of(stream), start=1):
            text = decoded(line)
            if recipe is None:
                recipe = TextBlock(number) if _START.match(text) else None
                continue
            is_end = _END.fullmatch(text) is not None
            if is_end or _START.match(text):
                yield recipe.row(file, _parse)
                recipe = None if is_end else TextBlock(number)
            else:
                recipe.add(line, text)
    if recipe is not None:
        yield recipe.row(file, _parse)


def _parse(lines: list[str]) -> Recipe:
    title = ""
    start = next((index for index, line in enumerate(lines) if line.strip() and not _FIELD.match(line)), len(lines))
    for line in lines[:start]:
        field = _FIELD.match(line)
        if field and field[1].lower() == "title":
            title = field[2]
    end = _end_of_ingredients(lines, start)
    return Recipe(title, tuple(_ingredients(lines[start:end])), tuple(_paragraphs(lines[end:])))


def _end_of_ingredients(lines: list[str], start: int) -> int:
    """Returns where the first line stands that is neither an ingredient nor the name of a section."""
    end = start
    for index in range(start, len(lines)):
        if _INGREDIENT.fullmatch(lines[index]) or _SECTION.fullmatch(lines[index]):
            end = index + 1
        elif lines[index].strip():
            break
    return end


def _ingredients(lines: list[str]) -> Iterator[str]:
    """Yields the left column of each section, then its right one, with continued lines joined."""
    left: list[str] = []
    right: list[str] = []
    for line in lines:
        second = _SECOND_COLUMN.fullmatch(line)
        if _SECTION.fullmatch(line):
            yield from (*left, *right)
            left, right = [], []
        elif second and _INGREDIENT.fullmatch(second[2]):
            _append(left, second[1])
            _append(right, second[2])
        else:
            _append(left, line)
    yield from (*left, *right)


def _append(column: list[str], line: str) -> None:
    match = _INGREDIENT.fullmatch(line.rstrip())
    if match is None:
        return
    amount, unit, food = match[1].strip(), match[2].strip(), match[3].strip()
    if not amount and not unit and column and _CONTINUATION.match(food):
        column[-1] = f"{column[-1]} {_CONTINUATION.sub('', food, count=1)}"
        return
    name = _UNITS.get(unit, _UNITS.get(unit.lower(), unit))
    column.append(" ".join(f"{amount} {name} {food}".split()))


def _paragraphs(lines: list[str]) -> Iterator[str]:
    paragraph: list[str] = []
    for line in [*lines, ""]:
        row = line.strip()
        # A colon at the margin keeps a line from being joined to the one above it.
        if paragraph and (not row or row.startswith(":") or _RULER.fullmatch(row) or _SECTION.fullmatch(line)):
            yield " ".join(paragraph)
            paragraph = []
        if row and not _RULER.fullmatch(row) and not _SECTION.fullmatch(line):
            paragraph.append(row.lstrip(":").strip())


def _recognises(head: Head) -> bool:
    return any(_START.match(line) for line in head.text.split("\n"))


FORMAT = Format("mealmaster", SUFFIXES, read_mealmaster, _recognises)
