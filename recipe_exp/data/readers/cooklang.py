"""Cooklang: one recipe a file, whose ingredients are marked in the text of its steps (cooklang.org, version 7)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from recipe_exp.data.readers.format import Format, Head
from recipe_exp.data.readers.markdown import FRONT_MATTER, parse_matter, title_of
from recipe_exp.data.readers.rows import Row
from recipe_exp.data.readers.text_block import rows_of_document
from recipe_exp.recipes.recipe import Recipe

SUFFIXES = (".cook",)

_BLOCK_COMMENT = re.compile(r"\[-.*?-\]", re.DOTALL)
_LINE_COMMENT = re.compile(r"--(?!-).*")
_METADATA = re.compile(r">>\s*([^:]+?)\s*:\s*(.*)")
_SECTION = re.compile(r"==*\s*([^=]*?)\s*=*")
# A name of several words ends at its braces; without braces it is one word.
_NAME = r"([@#~])([&?+-]*)(?=\S)((?:[^@#~{}\n]*?(?=\{))|[^\s@#~{}.,;:!?()\[\]]+|)"
_MARK = re.compile(_NAME + r"(?:\{([^{}]*)\})?(?:\(([^()]*)\))?")


def read_cooklang(path: Path) -> Iterator[Row]:
    """Yields the recipe of the file: its ingredients in the order of their first mention, its paragraphs as steps.

    An ingredient `@flour{125%g}` becomes the line `125 g flour` and the word `flour` in its step; cookware and timers
    leave their name and time there. The title is that of the metadata, else the file's name.

    Raises:
        DataError: the file is UTF-16, a Git LFS pointer or a damaged archive, or reading it failed.
    """
    yield from rows_of_document(path, lambda text: parse(text, title_of(path)))


def parse(text: str, default_title: str) -> Recipe:
    """Returns the recipe in a Cooklang document; parts that are missing are empty."""
    match = FRONT_MATTER.match(text)
    metadata = parse_matter(match[1], match[2]) if match else {}
    body = _BLOCK_COMMENT.sub("", text[match.end() :] if match else text)
    ingredients: dict[str, None] = {}
    steps: list[list[str]] = [[]]
    for line in body.split("\n"):
        found = _METADATA.fullmatch(line.strip())
        row = _LINE_COMMENT.sub("", line).strip()
        if found:
            metadata.setdefault(found[1].lower(), found[2])
        elif not row or row.startswith(("=", ">")):
            steps.append([])
        else:
            steps[-1].append(_MARK.sub(lambda mark: _replace(mark, ingredients), row))
    title = metadata.get("title")
    return Recipe(
        title=title if isinstance(title, str) and title.strip() else default_title,
        ingredients=tuple(ingredients),
        instructions=tuple(" ".join(lines) for lines in steps if lines),
    )


def _replace(mark: re.Match[str], ingredients: dict[str, None]) -> str:
    """Returns what a mark leaves in the text of its step, and keeps an ingredient's line."""
    kind, modifiers, name, amount, preparation = mark.groups()
    name = name.strip()
    quantity, _, unit = (amount or "").partition("%")
    measure = " ".join(f"{quantity.lstrip('=')} {unit}".split())
    if kind == "~":
        return measure or (name if amount is not None else mark[0])
    if not name:
        return mark[0]
    if kind == "#" and amount is None and name[0].isdigit():
        return mark[0]
    # A mention marked as a reference speaks of an ingredient that stands in the list.
    if kind == "@" and "&" not in modifiers:
        line = f"{measure} {name}".strip() + (f", {preparation.strip()}" if preparation else "")
        if measure or not any(name == known or known.endswith(f" {name}") for known in ingredients):
            ingredients[line] = None
    return name if kind == "@" or not preparation else f"{name} ({preparation})"


def _recognises(head: Head) -> bool:
    # Its marks stand in other texts as well, so besides the name only its own metadata tell it apart.
    return head.name.endswith(SUFFIXES) or (head.data.startswith(b">>") and b"{" in head.data)


FORMAT = Format("cooklang", SUFFIXES, read_cooklang, _recognises, is_named_by_file=True)
