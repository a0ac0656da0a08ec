"""A recipe as it was found made a clean one: text repaired, markup, bullets and step numbers taken out."""

from __future__ import annotations

import re
from dataclasses import replace

from recipe_exp.recipes.markup import plain_lines
from recipe_exp.recipes.recipe import Recipe

_BULLETS = "-*+•–▢☐·"
_BULLET = re.compile(rf"(?:[{re.escape(_BULLETS)}]\s+)++(?:\[[ xX]?\]\s+)?")
_NUMBER = re.compile(r"(?:step\s*)?(\d{1,3})\s*[.):]\s+", re.IGNORECASE)
_NUMBER_ALONE = re.compile(r"(?:step\s*)?(\d{1,3})\s*[.):]?", re.IGNORECASE)
_INNER_NUMBER = re.compile(r"(?:^|(?<=[.!?);:,])\s+)(\d{1,2})[.)]\s+(?=[^\W\d_])")
# What a page shows between the lines of its recipe, and collections have taken for some.
_ADVERTISEMENT = re.compile(r"(?:\s*+\bADVERTISEMENT)++$")
_CAPTIONS = frozenset({"watch how to make this recipe."})

# A bullet can hide a heading and a number a bullet; lines needing more passes than this are none of a recipe.
_MAX_PASSES = 8


def clean_recipe(recipe: Recipe) -> Recipe:
    """Return the recipe with clean lines (see `plain_lines`), without bullets, step numbers and advertisements.

    Lines without a letter or digit are dropped. A part that is one text with line breaks, or one paragraph of numbered
    steps, is taken apart. Quantities, fractions in ASCII, and units stay as they are written.
    """
    return replace(
        recipe,
        title=_clean_title(recipe.title),
        ingredients=_clean_lines(_taken_apart(recipe.ingredients)),
        instructions=_clean_steps(_taken_apart(recipe.instructions)),
    )


def _clean_title(title: str) -> str:
    """Joining what block elements set apart may make markup of it, such as a heading's mark before a word."""
    for _ in range(_MAX_PASSES):
        before, title = title, " ".join(plain_lines(title))
        if title == before:
            break
    return title


def _taken_apart(lines: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(lines[0].splitlines()) if len(lines) == 1 else lines


def _clean_steps(lines: tuple[str, ...]) -> tuple[str, ...]:
    steps = _clean_lines(lines)
    for _ in range(_MAX_PASSES):
        bare = _without_numbers(_numbered_steps(steps))
        if bare == steps:
            break
        steps = _clean_lines(bare)
    return steps


def _clean_lines(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return the lines without those that hold no letter or digit, such as a ruler or a bullet alone."""
    lines = [line for text in texts for line in plain_lines(text)]
    for _ in range(_MAX_PASSES):
        bare = [_without_marks(line) for line in lines]
        if bare == lines:
            break
        lines = [line for text in bare for line in plain_lines(text)]
    return tuple(line for line in lines if any(map(str.isalnum, line)) and line.casefold() not in _CAPTIONS)


def _without_marks(line: str) -> str:
    if line[0] in _BULLETS:
        line = _BULLET.sub("", line, count=1) if _BULLET.match(line) else line
    return _ADVERTISEMENT.sub("", line) if line.endswith("ADVERTISEMENT") else line


def _numbered_steps(steps: tuple[str, ...]) -> tuple[str, ...]:
    """Return the steps of a single paragraph in which they are numbered from 1, else the steps as they are."""
    if len(steps) != 1 or not steps[0].startswith("1"):
        return steps
    matches = list(_INNER_NUMBER.finditer(steps[0]))
    if len(matches) < 2 or [int(match[1]) for match in matches] != list(range(1, len(matches) + 1)):
        return steps
    ends = [match.start() for match in matches[1:]] + [len(steps[0])]
    return tuple(steps[0][match.start() : end].strip() for match, end in zip(matches, ends, strict=True))


def _without_numbers(steps: tuple[str, ...]) -> tuple[str, ...]:
    """Remove the steps' own numbers if they count the steps; other digits belong to the text.

    They do if every line has one, or stands behind a line that is only a number, and they count up from 1, once or in
    several sections.
    """
    if not steps or not _NUMBER_ALONE.match(steps[0]):
        return steps
    alone = [_NUMBER_ALONE.fullmatch(step) for step in steps]
    if any(alone):
        numbers = [int(match[1]) for match in alone if match]
        if numbers == list(range(1, len(numbers) + 1)) and len(numbers) < len(steps) and alone[0]:
            return tuple(step for step, match in zip(steps, alone, strict=True) if not match)
        return steps
    matches = [_NUMBER.match(step) for step in steps]
    if not _count_up([int(match[1]) if match else None for match in matches]):
        return steps
    return tuple(step[match.end() :] for step, match in zip(steps, matches, strict=True) if match)


def _count_up(numbers: list[int | None]) -> bool:
    """Whether the numbers are 1, 2, ... n, or several such sequences of two or more one behind the other."""
    if numbers == list(range(1, len(numbers) + 1)):
        return True
    expected = 1
    for number in numbers:
        if number == 1 and expected > 2:
            expected = 1
        if number != expected:
            return False
        expected += 1
    return expected > 2
