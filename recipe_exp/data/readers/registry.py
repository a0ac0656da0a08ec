"""Every format, and the choice of one for a file."""

from __future__ import annotations

from pathlib import Path

from recipe_exp.data.readers import (
    cooklang,
    csv,
    html,
    huggingface,
    json,
    jsonl,
    markdown,
    mastercook,
    mealmaster,
    parquet,
)
from recipe_exp.data.readers.custom import import_reader
from recipe_exp.data.readers.files import read_head
from recipe_exp.data.readers.format import HEAD_BYTES, Format, Head

# The first that recognises a file reads it, so what is told apart most surely comes first.
_FORMATS = (
    *(parquet.FORMAT, mastercook.FORMAT, html.FORMAT, jsonl.FORMAT, json.FORMAT, mealmaster.FORMAT, csv.FORMAT),
    *(cooklang.FORMAT, markdown.FORMAT, huggingface.FORMAT),
)
# A text file is read if its content is in one of the formats; its name says nothing.
_UNDECIDED_SUFFIXES = (".txt",)


def find_format(name: str) -> Format:
    """Returns the format that `data.format` names, one's own (`module:function`) included.

    Raises:
        ConfigError: one's own cannot be imported.
    """
    return next((known for known in _FORMATS if known.name == name), None) or import_reader(name)


def choose_format(path: Path) -> Format | None:
    """Returns the format of a file by its content, or if that is in doubt by its name; None if it is in none.

    Raises:
        DataError: the file is a Git LFS pointer or UTF-16, or cannot be read.
    """
    name = path.name.lower().removesuffix(".gz")
    head = Head(name, read_head(path, HEAD_BYTES).lstrip())
    recognised = next((known for known in _FORMATS if known.recognises(head)), None)
    return recognised or next((known for known in _FORMATS if name.endswith(known.suffixes)), None)


def suffixes_of(chosen: Format | None) -> tuple[str, ...] | None:
    """Returns how the names of a folder's files end that are read, `.gz` included; None if all are.

    Args:
        chosen: the format they all have, or None if each is chosen by its content.
    """
    formats = _FORMATS if chosen is None else (chosen,)
    plain = [suffix for known in formats for suffix in known.suffixes]
    if chosen is None:
        plain += _UNDECIDED_SUFFIXES
    return tuple(suffix + packed for suffix in plain for packed in ("", ".gz")) or None
