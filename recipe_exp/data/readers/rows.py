"""What a reader yields: a record and where it stood, or the reason why a line is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from recipe_exp.recipes.recipe import Recipe

BLANK_LINE = "blank line"


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt and its answer, as they were written.

    Attributes:
        source_text: the prompt.
        target_text: the answer, usually a recipe in markdown.
        quality_score: a score in [0, 1] that came with the pair, or None.
    """

    source_text: str
    target_text: str
    quality_score: float | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """A line that could be read; its parts may still be empty."""

    file: str
    line_number: int
    content: Recipe | Pair


@dataclass(frozen=True, slots=True)
class Rejection:
    """A line that is not used.

    Attributes:
        file: the file as it was given.
        line_number: its line, counted from 1.
        reason: a short phrase that is the same for all lines with the same fault.
    """

    file: str
    line_number: int
    reason: str


Row: TypeAlias = Record | Rejection


def as_text(name: str) -> str:
    """Returns the name of a file as text that UTF-8 can hold; file systems take names that are none."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def row_of(file: str, line_number: int, content: Recipe | Pair | str) -> Row:
    """Returns the record of a recipe or pair, or the rejection of a reason."""
    if isinstance(content, str):
        return Rejection(file, line_number, content)
    return Record(file, line_number, content)
