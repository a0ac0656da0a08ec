"""Lists that were written as text: the cells of CSV files, and texts in records that hold a list."""

from __future__ import annotations

import ast
import re

import msgspec

_R_VECTOR = re.compile(r"c\((.*)\)", re.DOTALL)
_R_EMPTY = re.compile(r"character\(0\)|NULL|NA", re.IGNORECASE)
_R_TEXT = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_WHOLE = re.compile(r"(.*)", re.DOTALL)
_BRACKETS = re.compile(r"\[(.*)\]", re.DOTALL)
# Arrays of numpy are printed without commas, so whitespace separates as well. Possessive, so that no cell takes long.
_ITEM = re.compile(
    r"""\s*+(?:("[^"\\]*+(?:\\.[^"\\]*+)*+")|('[^'\\]*+(?:\\.[^'\\]*+)*+')|(NA|None|null|nan))(?:\s*+,|\s++|\Z)""",
    re.DOTALL,
)
_DIGIT = re.compile(r"[0-9¼½¾⅐-⅞]")
_SEPARATOR = re.compile(r"\s*,\s+")
_BEFORE_QUANTITY = re.compile(r"\s*[,;]\s+(?=[0-9¼½¾⅐-⅞])")
_PARENTHESES = re.compile(r"\([^()]*\)")


def list_in(text: str) -> list[str] | None:
    """Returns the items of a list written as JSON, as Python or numpy print it, or as an R vector.

    Missing items (`NA`, `None`, `null`) are left out. None if the text is no such list, or not one of texts.
    """
    text = text.strip()
    if text.startswith("["):
        return _json_list(text) or _quoted_items(_BRACKETS, text)
    if text.startswith("c("):
        return _quoted_items(_R_VECTOR, text)
    if _R_TEXT.fullmatch(text):
        return _quoted_items(_WHOLE, text)
    return [] if _R_EMPTY.fullmatch(text) else None


def split_ingredients(line: str) -> list[str]:
    """Returns the ingredients of a line in which commas or semicolons may join several.

    A comma also stands inside one ingredient (`1 onion, chopped`), so of a line with quantities only the marks in front
    of one separate; of a line without any, all commas do. Commas in parentheses never do.
    """
    hidden = _PARENTHESES.sub(lambda match: match[0].replace(",", "\0"), line)
    separator = _BEFORE_QUANTITY if _DIGIT.search(line) else _SEPARATOR
    return [part.replace("\0", ",") for part in separator.split(hidden)]


def _json_list(text: str) -> list[str] | None:
    try:
        items = msgspec.json.decode(text, type=list[str | None])
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return None
    return [item for item in items if item is not None]


def _quoted_items(around: re.Pattern[str], text: str) -> list[str] | None:
    whole = around.fullmatch(text)
    if whole is None:
        return None
    inside, position, items = whole[1].strip(), 0, []
    while position < len(inside):
        match = _ITEM.match(inside, position)
        if match is None:
            return None
        quoted = match[1] or match[2]
        if quoted:
            item = _unquoted(quoted)
            if item is None:
                return None
            items.append(item)
        position = match.end()
    return items


def _unquoted(quoted: str) -> str | None:
    if "\\" not in quoted:
        return quoted[1:-1]
    try:
        # A line break may stand in the quotes of R and of a cell, but not in those of Python.
        value = ast.literal_eval(quoted.replace("\r", "\\r").replace("\n", "\\n"))
    except (ValueError, SyntaxError):
        return None
    return value if isinstance(value, str) else None
