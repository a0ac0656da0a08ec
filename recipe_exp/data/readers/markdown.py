"""Markdown: one recipe a file, with front matter as site generators want it, or plain as on GitHub."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from recipe_exp.data.readers.format import Format, Head
from recipe_exp.data.readers.records import contents_in
from recipe_exp.data.readers.rows import Row, as_text
from recipe_exp.data.readers.text_block import rows_of_document
from recipe_exp.recipes.recipe import Recipe

SUFFIXES = (".md", ".markdown", ".mdx")

FRONT_MATTER = re.compile(r"\A(---|\+\+\+)[ \t]*\n(.*?)^\1[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"(#{1,6})[ \t]+(.+?)[ \t]*#*|()(?:\*\*|__)([^*_]+?):?(?:\*\*|__):?")
_UNDERLINE = re.compile(r"={3,}|-{3,}")
_BULLET = re.compile(r"(?:[-*+•][ \t]+)(?:\[[ xX]?\][ \t]+)?(.*)")
_NUMBER = re.compile(r"[0-9]{1,3}[.)][ \t]+(.*)")
_INGREDIENTS = re.compile(r"(?:the )?ingredients?\b|(?:what )?you(?:'ll| will)? need\b|shopping list", re.IGNORECASE)
_INSTRUCTIONS = re.compile(
    r"(?:the )?(?:cooking |baking |preparation )?(?:instructions?|directions?|method|steps?|procedure)\b"
    r"|preparation\b(?! time)|how to\b|making it|to make\b|process\b",
    re.IGNORECASE,
)
# A picture alone, a comment, a ruler, or the tags below a recipe.
_NO_TEXT = re.compile(r"!\[[^\[\]]*+\]\([^()]*+\)|<!--[^>]*+-->|[-*_]{3,}|(?:tags|categories):.*", re.IGNORECASE)
_ESCAPE = re.compile(r"\\([\\`*_{}\[\]()#+\-.!~>|])")
_LOWEST_LEVEL = 7
_MAX_MATTER_CHARACTERS = 2**16


class _LoaderWithoutAliases(yaml.SafeLoader):
    """Refuses aliases, with which a few lines stand for billions of values."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias")
        return super().compose_node(parent, index)


def read_markdown(path: Path) -> Iterator[Row]:
    """Yields the recipe of the file.

    The title is that of the front matter, else the first heading, else the file's name. Under a heading such as
    `Ingredients` or `Directions` (of any level, in bold or underlined) stand the parts; a heading of the same or a
    higher level ends them. Without such headings the bullets are ingredients, and what is numbered or follows them is
    instructions. Front matter may hold the whole recipe.

    Raises:
        DataError: the file is UTF-16, a Git LFS pointer or a damaged archive, or reading it failed.
    """
    yield from rows_of_document(path, lambda text: parse(text, title_of(path)))


def parse(text: str, default_title: str) -> Recipe:
    """Returns the recipe in a markdown document; parts that are missing are empty."""
    match = FRONT_MATTER.match(text)
    matter = parse_matter(match[1], match[2]) if match else {}
    whole = next(contents_in(matter), None) if matter else None
    if isinstance(whole, Recipe) and whole.ingredients and whole.instructions:
        return whole if whole.title else Recipe(default_title, whole.ingredients, whole.instructions)
    document = _Document(list(_rows(_ESCAPE.sub(r"\1", text[match.end() :] if match else text))))
    title = matter.get("title")
    return Recipe(
        title=title if isinstance(title, str) and title.strip() else document.title or default_title,
        ingredients=tuple(document.ingredients),
        instructions=tuple(document.instructions),
    )


def title_of(path: Path) -> str:
    """Returns what the name of a file calls its recipe."""
    name = as_text(path.name).removesuffix(".gz")
    return " ".join(name.rpartition(".")[0].replace("_", " ").replace("-", " ").split()) or name


def parse_matter(fence: str, text: str) -> dict[str, object]:
    """Returns the values of front matter: YAML between `---`, TOML between `+++`; none of what is neither."""
    if len(text) > _MAX_MATTER_CHARACTERS:
        return {}
    try:
        values = tomllib.loads(text) if fence == "+++" else yaml.load(text, _LoaderWithoutAliases)
    except (yaml.YAMLError, tomllib.TOMLDecodeError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


@dataclass(frozen=True, slots=True)
class _Row:
    """A line that is not blank. A heading has a level; `opens` names the part whose heading it is."""

    text: str
    level: int = 0
    opens: Literal["ingredients", "instructions"] | None = None
    is_indented: bool = False
    is_behind_blank: bool = False


def _rows(text: str) -> Iterator[_Row]:
    lines = [line.rstrip() for line in text.split("\n")]
    is_behind_blank = is_underlined = False
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        row = line.strip().removeprefix(">").strip()
        if is_underlined or not row or _NO_TEXT.fullmatch(row):
            is_behind_blank, is_underlined = True, False
            continue
        is_underlined = _UNDERLINE.fullmatch(following) is not None and not _BULLET.fullmatch(row)
        heading = _HEADING.fullmatch(row)
        if is_underlined:
            yield _heading(row, 1 if following[0] == "=" else 2)
        elif heading:
            yield _heading(heading[2] or heading[4], len(heading[1] or "") or _LOWEST_LEVEL)
        elif row.endswith(":") and _opened_by(row[:-1], whole=True):
            yield _heading(row, _LOWEST_LEVEL)
        else:
            yield _Row(row, is_indented=line[0] in " \t", is_behind_blank=is_behind_blank)
        is_behind_blank = False


def _heading(text: str, level: int) -> _Row:
    name = text.strip("*_ \t:")
    return _Row(name, level, _opened_by(name))


def _opened_by(name: str, *, whole: bool = False) -> Literal["ingredients", "instructions"] | None:
    def find(pattern: re.Pattern[str]) -> bool:
        return (pattern.fullmatch(name) if whole else pattern.match(name)) is not None

    return "ingredients" if find(_INGREDIENTS) else "instructions" if find(_INSTRUCTIONS) else None


class _Document:
    """Goes over the rows and keeps those that belong to a part."""

    def __init__(self, rows: list[_Row]) -> None:
        self.title = ""
        self.ingredients: list[str] = []
        self.instructions: list[str] = []
        self._parts = {"ingredients": self.ingredients, "instructions": self.instructions}
        self._announced = {row.opens for row in rows}
        self._section: list[str] | None = None
        self._section_level = 0
        self._is_closed = self._continues = False
        for row in rows:
            if row.level:
                self._enter(row)
            elif not self._is_closed:
                self._keep(row)

    def _enter(self, heading: _Row) -> None:
        self._continues = False
        if heading.opens:
            self._section, self._section_level = self._parts[heading.opens], heading.level
            self._is_closed = False
        elif self._section is None:
            self.title = self.title or heading.text
        elif heading.level <= self._section_level and heading.level < _LOWEST_LEVEL:
            # Notes, a history, who wrote it: behind the recipe rather than part of it.
            self._is_closed = True

    def _keep(self, row: _Row) -> None:
        bullet, number = _BULLET.fullmatch(row.text), _NUMBER.fullmatch(row.text)
        part = self._part_of(row, is_bullet=bullet is not None, is_number=number is not None)
        if part is None:
            return
        mark = bullet or number
        is_more = self._continues and not row.is_behind_blank and not mark
        if is_more and part and (row.is_indented or part is self.instructions):
            part[-1] = f"{part[-1]} {row.text}"
        else:
            part.append(mark[1] if mark else row.text)
        self._continues = True

    def _part_of(self, row: _Row, *, is_bullet: bool, is_number: bool) -> list[str] | None:
        """Returns the part that a row belongs to: that of its heading, or where there is none, by its mark."""
        if self._section is self.instructions:
            return self.instructions
        if self._section is None and "ingredients" in self._announced:
            return None
        if is_bullet:
            return self.ingredients
        if self._section is self.ingredients and "instructions" in self._announced:
            return self.ingredients
        # A paragraph behind the list tells what to do with it.
        is_step = is_number or (bool(self.ingredients) and (row.is_behind_blank or bool(self.instructions)))
        if "instructions" in self._announced:
            return None
        return self.instructions if is_step else self._section


def _recognises(head: Head) -> bool:
    text = head.text
    if text.startswith(("---\n", "+++\n")):
        return FRONT_MATTER.match(text) is not None
    first, _, rest = text.partition("\n")
    is_titled = first.startswith("#") or _UNDERLINE.fullmatch(rest.partition("\n")[0].rstrip()) is not None
    return is_titled and re.search(r"^\s*[-*+][ \t]", text, re.MULTILINE) is not None


FORMAT = Format("markdown", SUFFIXES, read_markdown, _recognises, is_named_by_file=True)
