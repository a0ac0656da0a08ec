"""What is wrong with a generated recipe, at the place where it is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from recipe_exp.metrics.ingredients import content_words, food_words, is_used
from recipe_exp.metrics.reading import WORD, Reading, words_of
from recipe_exp.metrics.steps import MAX_STEP_WORDS, MIN_STEP_WORDS
from recipe_exp.metrics.vocabulary import ACTION_VERBS, FOODS, KINDS
from recipe_exp.recipes import Line, LineKind, normalise_title, parse_ingredient
from recipe_exp.reports.page import Part

_ENDS_OF_SENTENCES = ".!?…:;)]\"'”’"
_MISSING = (
    (LineKind.TITLE, "no title"),
    (LineKind.INGREDIENT, "no ingredient list"),
    (LineKind.STEP, "no instructions"),
)


def mark_faults(reading: Reading) -> tuple[tuple[str, ...], tuple[Part, ...]]:
    """Returns what is wrong with a recipe as a whole, and its text with every fault that has a place.

    These are hints for a reader: what the metrics count is defined in their own docstrings.
    """
    lines = iter(reading.parsed.lines)
    marker = _Marker(reading)
    parts: list[Part] = []
    for text in reading.text.splitlines(keepends=True):
        if text.strip():
            line = next(lines, None)
            parts += marker.mark(text, line) if line is not None else [Part(text)]
        else:
            parts.append(Part(text))
    return tuple(_faults_of_the_whole(reading)), tuple(part for part in parts if part.text)


def _faults_of_the_whole(reading: Reading) -> Iterator[str]:
    for kind, name in _MISSING:
        if not any(line.text for line in reading.parsed.of_kind(kind)):
            yield name
    listed = {word for part in reading.ingredients for word in words_of(part.name)}
    for asked in reading.prompt_ingredients:
        words = food_words(parse_ingredient(asked).name)
        if words and words[-1] not in listed:
            yield f"asked for and not listed: {asked}"
    last = reading.text.rstrip()
    steps = reading.recipe.instructions
    if steps and last and last[-1] not in _ENDS_OF_SENTENCES:
        yield "breaks off at its end"


class _Marker:
    """Marks the lines of one recipe in turn.

    Args:
        reading: of the recipe.
    """

    def __init__(self, reading: Reading) -> None:
        self._words = reading.words_in_steps
        names = [part.name for part in reading.ingredients]
        foods = [food for food in dict.fromkeys(map(food_words, names)) if food]
        self._times_listed = Counter(word for food in foods for word in set(food))
        self._listed = {word for name in names for word in content_words(name)}
        self._seen_ingredients: set[str] = set()
        self._seen_steps: set[str] = set()
        self._num_steps = 0

    def mark(self, text: str, line: Line) -> Sequence[Part]:
        """Returns one line in parts."""
        match line.kind:
            case LineKind.INGREDIENT:
                return _whole(text, self._ingredient(line))
            case LineKind.STEP:
                fault = self._step(line)
                return _whole(text, fault) if fault else self._foods(text)
            case LineKind.CONTINUATION:
                return self._foods(text)
            case LineKind.OTHER:
                return _whole(text, "neither an ingredient nor a step")
            case _:
                return [Part(text)]

    def _ingredient(self, line: Line) -> str:
        key = normalise_title(line.text)
        if key in self._seen_ingredients:
            return "listed before"
        self._seen_ingredients.add(key)
        food = food_words(parse_ingredient(line.text).name)
        return "" if not food or is_used(food, self._words, self._times_listed) else "no step uses it"

    def _step(self, line: Line) -> str:
        self._num_steps += 1
        key, words = normalise_title(line.text), [word.casefold() for word in WORD.findall(line.text)]
        was_seen = key in self._seen_steps
        self._seen_steps.add(key)
        if was_seen:
            return "repeats an earlier step"
        if line.number != self._num_steps:
            return f"has no number {self._num_steps}"
        if not MIN_STEP_WORDS <= len(words) <= MAX_STEP_WORDS:
            return "too short" if len(words) < MIN_STEP_WORDS else "too long"
        return "" if any(word in ACTION_VERBS for word in words) else "nothing is done"

    def _foods(self, text: str) -> list[Part]:
        """Marks the foods that no ingredient line names."""
        parts, start = [], 0
        for found in WORD.finditer(text):
            (word, *_) = words_of(found[0]) or ("",)
            if word in FOODS and word not in self._listed and KINDS.get(word, frozenset()).isdisjoint(self._listed):
                parts += [Part(text[start : found.start()]), Part(found[0], "not listed")]
                start = found.end()
        return [*parts, Part(text[start:])]


def _whole(text: str, fault: str) -> list[Part]:
    if not fault:
        return [Part(text)]
    content = text.strip()
    start = text.index(content)
    return [Part(text[:start]), Part(content, fault), Part(text[start + len(content) :])]
