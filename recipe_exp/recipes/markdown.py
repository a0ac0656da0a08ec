"""Recipes as markdown: one canonical form out, a lenient reader in that also reports the markup it saw.

The canonical form, without a trailing newline:

    **Title**

    **Ingredients:**
    - line

    **Instructions:**
    1. step
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from recipe_exp.recipes.recipe import Recipe

INGREDIENTS_HEADING = "**Ingredients:**"
INSTRUCTIONS_HEADING = "**Instructions:**"

_INGREDIENT_HEADINGS = frozenset({"ingredients", "ingredient", "ingredient list", "ingredients list"})
_INSTRUCTION_HEADINGS = frozenset(
    {"instructions", "instruction", "directions", "method", "steps", "preparation", "procedure"}
)
_CLOSING_HEADINGS = frozenset({"note", "notes", "tip", "tips", "nutrition", "nutrition facts", "variations"})

_BOLD = re.compile(r"\*\*(.+)\*\*")
_HASHES = re.compile(r"#{1,6}(?!#)[ \t]*(.*?)[ \t]*#*")
_BULLET = re.compile(r"(?:[-*+–][ \t]+|•[ \t]*)(.*)")
_EMPTY_BULLET = re.compile(r"[-*+–•]")
# Nine digits hold any step number, and int() refuses strings of several thousand.
_NUMBER = re.compile(r"([0-9]{1,9})[.)](?:[ \t]+(.*))?")


class LineKind(Enum):
    """What a line of a recipe's markdown is."""

    TITLE = "title"
    INGREDIENTS_HEADING = "ingredients heading"
    INSTRUCTIONS_HEADING = "instructions heading"
    INGREDIENT = "ingredient"
    STEP = "step"
    CONTINUATION = "continuation of a step"
    OTHER = "other"


_SECTIONS = (LineKind.INGREDIENTS_HEADING, LineKind.INSTRUCTIONS_HEADING)


@dataclass(frozen=True, slots=True)
class Line:
    """One non-blank line as it was read.

    Attributes:
        kind: its part in the recipe.
        text: its content without markup; empty for headings and for a marker without content.
        canonical: whether its markup is the canonical one for its kind.
        number: the number in front of it, or None.
    """

    kind: LineKind
    text: str
    canonical: bool
    number: int | None = None


@dataclass(frozen=True, slots=True)
class ParsedRecipe:
    """A recipe together with the markup it was read from.

    Attributes:
        recipe: the content; missing parts are empty.
        lines: every non-blank line in order, with its kind and whether its markup was canonical.
    """

    recipe: Recipe
    lines: tuple[Line, ...]

    def of_kind(self, kind: LineKind) -> tuple[Line, ...]:
        """Return the lines of one kind in order."""
        return tuple(line for line in self.lines if line.kind is kind)

    @property
    def step_numbers(self) -> tuple[int | None, ...]:
        """The number written before each of `recipe.instructions`, None where there was none."""
        return tuple(number for number, _ in _join_steps(self.lines))


def render_markdown(recipe: Recipe) -> str:
    """Return the recipe in the canonical form, without a trailing newline."""
    return "\n".join(
        [
            f"**{recipe.title}**",
            "",
            INGREDIENTS_HEADING,
            *(f"- {ingredient}" for ingredient in recipe.ingredients),
            "",
            INSTRUCTIONS_HEADING,
            *(f"{number}. {step}" for number, step in enumerate(recipe.instructions, start=1)),
        ]
    )


def parse_recipe(text: str) -> Recipe:
    """Return the recipe in a markdown text; never raises, missing parts are empty.

    The inverse of `render_markdown` for every recipe whose lines are non-empty, stripped and free of line
    breaks, and whose title is not itself a section heading. Lenient towards other markup: see `read_recipe`.
    """
    return read_recipe(text).recipe


def read_recipe(text: str) -> ParsedRecipe:
    """Return the recipe in a markdown text together with the markup of every line; never raises.

    Titles may be bold or `#` headings (or plain, if a section heading follows), headings bold, `#` or plain
    with or without a colon and in common synonyms, bullets `-`, `*`, `+` or `•`, steps `1.`, `1)`, bulleted
    or plain. An unmarked line directly below a step continues it. Without headings, bullets are ingredients
    and numbered lines steps. Anything else is kept as a line of kind `OTHER` and is not part of the recipe.
    """
    rows = [row.strip() for row in text.splitlines()]
    body = list(_classify(rows))
    lines = tuple(_choose_title(body))
    return ParsedRecipe(_assemble(lines), lines)


def _classify(rows: Iterable[str]) -> Iterator[Line]:
    section: LineKind | None = None
    closed = after_step = False
    for row in rows:
        if not row:
            after_step = False
            continue
        heading = _heading_kind(row)
        if heading is LineKind.OTHER:
            closed = True
        elif heading is not None:
            section, closed = heading, False
        if heading is not None:
            line = Line(heading, "", row in (INGREDIENTS_HEADING, INSTRUCTIONS_HEADING))
        elif closed:
            line = Line(LineKind.OTHER, row, canonical=False)
        else:
            line = _classify_content(row, section, after_step)
        after_step = line.kind in (LineKind.STEP, LineKind.CONTINUATION)
        yield line


def _heading_kind(row: str) -> LineKind | None:
    """Return the section a line opens, `OTHER` for one that belongs to no part of the recipe, else None."""
    name = _without_emphasis(row).strip("* \t:").casefold()
    if name in _INGREDIENT_HEADINGS:
        return LineKind.INGREDIENTS_HEADING
    if name in _INSTRUCTION_HEADINGS:
        return LineKind.INSTRUCTIONS_HEADING
    marked = row.startswith(("#", "**")) or row.endswith(":")
    return LineKind.OTHER if marked and name in _CLOSING_HEADINGS else None


def _classify_content(row: str, section: LineKind | None, after_step: bool) -> Line:
    bullet = _BULLET.fullmatch(row) or (_EMPTY_BULLET.fullmatch(row) and _BULLET.fullmatch(row + " "))
    number = _NUMBER.fullmatch(row)
    if section is None:
        section = LineKind.INGREDIENTS_HEADING if bullet else LineKind.INSTRUCTIONS_HEADING if number else None
    if section is None or (not bullet and not number and _is_marked_title(row)):
        return Line(LineKind.OTHER, row, canonical=False)
    if section is LineKind.INGREDIENTS_HEADING:
        return _ingredient(row, bullet, number)
    return _step(row, bullet, number, after_step)


def _ingredient(row: str, bullet: re.Match[str] | None, number: re.Match[str] | None) -> Line:
    if bullet:
        return Line(LineKind.INGREDIENT, bullet[1], row.startswith("- "))
    if number:
        return Line(LineKind.INGREDIENT, number[2] or "", canonical=False, number=int(number[1]))
    return Line(LineKind.INGREDIENT, row, canonical=False)


def _step(row: str, bullet: re.Match[str] | None, number: re.Match[str] | None, after_step: bool) -> Line:
    if number:
        canonical = row.startswith(f"{int(number[1])}. ")
        return Line(LineKind.STEP, number[2] or "", canonical, int(number[1]))
    if bullet:
        return Line(LineKind.STEP, bullet[1], canonical=False)
    kind = LineKind.CONTINUATION if after_step else LineKind.STEP
    return Line(kind, row, canonical=False)


def _choose_title(body: list[Line]) -> list[Line]:
    """Turn the first marked line before any section, else the first plain one, into the title."""
    start = next((i for i, line in enumerate(body) if line.kind is not LineKind.OTHER), len(body))
    preamble = range(start)
    marked = [i for i in preamble if _is_marked_title(body[i].text)]
    has_heading = any(line.kind in _SECTIONS for line in body)
    plain = [i for i in preamble if body[i].text] if has_heading else []
    for index in [*marked, *plain][:1]:
        row = body[index].text
        body[index] = Line(LineKind.TITLE, _without_emphasis(row), _BOLD.fullmatch(row) is not None)
    return body


def _is_marked_title(row: str) -> bool:
    return bool(_without_emphasis(row)) and (row.startswith("#") or _BOLD.fullmatch(row) is not None)


def _without_emphasis(row: str) -> str:
    """Remove one layer of `#` and one of `**`, in this order, so that a bold title may contain a `#`."""
    hashes = _HASHES.fullmatch(row)
    if hashes:
        row = hashes[1]
    bold = _BOLD.fullmatch(row)
    return (bold[1] if bold else row).strip()


def _assemble(lines: tuple[Line, ...]) -> Recipe:
    title = next((line.text for line in lines if line.kind is LineKind.TITLE), "")
    ingredients = tuple(line.text for line in lines if line.kind is LineKind.INGREDIENT and line.text)
    return Recipe(title, ingredients, tuple(step for _, step in _join_steps(lines)))


def _join_steps(lines: Iterable[Line]) -> list[tuple[int | None, str]]:
    """Return each step's number and its text with its continuations, without steps that have no text."""
    steps: list[tuple[int | None, str]] = []
    for line in lines:
        if line.kind is LineKind.STEP:
            steps.append((line.number, line.text))
        elif line.kind is LineKind.CONTINUATION:
            number, text = steps[-1]
            steps[-1] = number, f"{text} {line.text}".strip()
    return [(number, text) for number, text in steps if text]
