"""One ingredient line taken apart into quantity, unit and the food's name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from recipe_exp.recipes.text import ascii_fractions
from recipe_exp.recipes.units import (
    COUNTED_UNITS,
    FIRST_OF_TWO,
    FOOD_UNITS,
    LOOSE_UNITS,
    TRAILING_UNITS,
    canonical_unit,
)
from recipe_exp.recipes.words import (
    ADJECTIVES,
    ADVERBS,
    ALWAYS_ADVERBS,
    COMMENT_WORDS,
    NUMBER_WORDS,
    PREPARATIONS,
    REMARK_OPENERS,
    SIZES,
    STATES_AFTER_ADVERB,
    UNIT_QUALIFIERS,
)

# At most nine digits a number: no recipe needs more, and int() refuses strings of several thousand.
_NUMBER = (
    r"(?:[0-9]{1,9}(?:\s+(?:and\s+|&\s*)?|-)[1-9][0-9]?/[1-9][0-9]?"
    r"|[0-9]{1,9}/[1-9][0-9]{0,8}|[0-9]{0,9}\.[0-9]{1,9}|[0-9]{1,9})(?![0-9])"
)
# ASCII case folding: the Unicode one lets a dotted capital I match a letter that it does not casefold to.
_WORD_NUMBER = "(?ai:" + "|".join(sorted(NUMBER_WORDS, key=len, reverse=True)) + r")(?![\w'’-])"
_ANY_NUMBER = rf"(?:{_NUMBER}|{_WORD_NUMBER})"
_RANGE = r"\s*(?:-|–|—|to\b|or\b)\s*"
_QUANTITY = re.compile(rf"({_ANY_NUMBER})(?:{_RANGE}({_ANY_NUMBER}))?", re.IGNORECASE)
_NUMERIC_QUANTITY = re.compile(
    rf"(?<![\w./-])({_NUMBER})(?:{_RANGE}({_NUMBER}))?(?!\s*(?:%|°|/|-?(?:inch|in\b|cm|mm)))", re.IGNORECASE
)
_MIXED = re.compile(r"([0-9]+)\D+([0-9]+/[0-9]+)")

_APPROXIMATELY = re.compile(
    r"(?:(?:about|approximately|approx\.?|around|roughly|up to|at least|just over|just under|another"
    r"|scant|generous|heaping|heaped|~|c\.)\s*)+",
    re.IGNORECASE,
)
_FEW = re.compile(r"(?:a\s+)?(?:few|several|some)\s+(?:of\s+)?", re.IGNORECASE)
_TIMES = re.compile(r"\s*[x×]\s*(?=[0-9.])", re.IGNORECASE)
_ALTERNATIVE = re.compile(r"\s*(?:[/;,+&=|]\s*|(?:plus|minus|less|and|or)\s+)?(?=[0-9])", re.IGNORECASE)
_LETTERS = re.compile(r"[\s-]*([^\W\d_]+(?:-[^\W\d_]+)*)\.?(?![\w'’-])")
_DOZEN = re.compile(r"\s*dozen\b", re.IGNORECASE)
_PACKAGE_SIZE = re.compile(rf"[\s,-]*{_NUMBER}(?:{_RANGE}{_NUMBER})?[\s-]*([^\W\d_]+)\.?(?=[\s-])", re.IGNORECASE)
_OF = re.compile(r"[\s,;:/.-]*(?:of\s+(?:the\s+|an?\s+)?)?", re.IGNORECASE)
_PARENTHESES = re.compile(r"\s*[(\[][^()\[\]]*[)\]]|\s*[(\[].*$")
_SEGMENT = re.compile(r"\s*[,;:]\s*|\s+[-–—]+\s+|\s*[–—]\s*")
_WORDS = re.compile(r"[^\s/]+")
_EXTRACT = re.compile(
    r"(?:\w+\s+){0,2}(?:zest|juice|rind|peel)(?:\s+(?:and|&)\s+(?:\w+\s+)?(?:zest|juice|rind))?\s+(?:of|from)\s+",
    re.IGNORECASE,
)
_REMARK = re.compile(
    r"\s+(?:(?:plus|for|to|such as|as needed|as required|if|at room|about|preferably|optional|from|with|in"
    r"|cut|or more|or less|or to|or as|or (?:about )?[0-9]|and [0-9]|each|depending|weighing|divided"
    r"|dissolved|soaked|at|then|store-bought|homemade)\b|i\.e\.|e\.g\.|[0-9][0-9./]*\s*(?:ml|g|kg|l|oz|lbs?|cups?|tbsp|tsp)\b"
    r").*$",
    re.IGNORECASE,
)

_LETTER_RUNS = re.compile(r"[a-z]+")
_INNER_DIGIT = re.compile(r"\s[0-9]")


@dataclass(frozen=True, slots=True)
class Ingredient:
    """The parts of one ingredient line.

    Attributes:
        quantity: the first quantity, of a range its lower end; None if the line states none.
        quantity_max: the upper end if the quantity is a range, else None.
        unit: the canonical name of the first unit (see `canonical_unit`), or None.
        name: the food's words in their order and case, without size, preparation and comments.
    """

    quantity: Fraction | None
    quantity_max: Fraction | None
    unit: str | None
    name: str


def parse_ingredient(line: str) -> Ingredient:
    """Return the parts of an ingredient line; never raises.

    A measure in front of the food is preferred to one anywhere else. Measures repeated in other units
    (`100g/4oz`, `1 cup (240 ml)`) are left out of the name, and so is text in parentheses and behind the
    comma, unless the comma is part of a list of foods (`parsley, chives or dill`).
    """
    text = " ".join(ascii_fractions(line).split())
    bare = _without_parentheses(text)
    quantity, unit, rest = _take_measure(bare)
    if quantity is None and unit is None:
        extract = _EXTRACT.match(bare)
        if extract:
            quantity, _, rest = _take_measure(bare[extract.end() :])
    words = _name_words(rest)
    if unit is None:
        unit, words = _take_trailing_unit(words)
    if quantity is None and unit is None:
        quantity, unit = _find_measure(text)
    low, high = quantity or (None, None)
    return Ingredient(low, high, unit, " ".join(words))


def split_measure(line: str) -> tuple[str, str]:
    """Return the measure in front of a line (`1 1/2 cups`) and what follows it; either may be empty.

    Text in parentheses is left out of both, fractions are in ASCII.
    """
    bare = _without_parentheses(" ".join(ascii_fractions(line).split()))
    quantity, unit, rest = _take_measure(bare)
    if quantity is None and unit is None:
        return "", bare
    return bare[: len(bare) - len(rest)].strip(" ,;:"), rest


_Range = tuple[Fraction, Fraction | None]


def _without_parentheses(text: str) -> str:
    if "(" in text or "[" in text:
        bare = " ".join(_PARENTHESES.sub(" ", text).split())
        return bare.strip(" *•-–") or text.strip("()[] ")
    return text.strip(" *•-–") or text.strip("()[] ")


def _take_measure(text: str) -> tuple[_Range | None, str | None, str]:
    """Return the quantity and unit in front of a text and what follows all measures there."""
    if text[:1].isdecimal():
        match = _QUANTITY.match(text)
    else:
        position = _end_of(_APPROXIMATELY, text, 0)
        match = None if _FEW.match(text) else _QUANTITY.match(text, position)
    quantity = _range_of(match) if match else None
    if match is None or quantity is None:
        return _take_loose_unit(text)
    dozen = _DOZEN.match(text, match.end())
    if dozen:
        quantity = 12 * quantity[0], 12 * quantity[1] if quantity[1] else None
    position = dozen.end() if dozen else match.end()
    times = _TIMES.match(text, position)
    if times:
        inner = _QUANTITY.match(text, times.end())
        position = inner.end() if inner else times.end()
    size = _PACKAGE_SIZE.match(text, position)
    if size and canonical_unit(size[1]):
        position = size.end()
    unit, position = _take_unit(text, position)
    while unit is not None:
        alternative = _ALTERNATIVE.match(text, position)
        repeated = _QUANTITY.match(text, alternative.end()) if alternative else None
        if not repeated:
            break
        other, end = _take_unit(text, repeated.end())
        if other is None:
            break
        position = end
    if unit is not None:
        container, end = _take_unit(text, position)
        if container in COUNTED_UNITS:
            position = end
    return quantity, unit, text[_end_of(_OF, text, position) :]


def _take_loose_unit(text: str) -> tuple[None, str | None, str]:
    """Return a unit that needs no number, as in `pinch of salt` and `few sprigs thyme`."""
    start = _end_of(_FEW, text, 0)
    unit, position = _take_unit(text, start)
    if unit in LOOSE_UNITS:
        return None, unit, text[_end_of(_OF, text, position) :]
    return None, None, text[start:]


def _take_unit(text: str, position: int) -> tuple[str | None, int]:
    """Return the unit at a position, past its qualifiers, and its end; else (None, position)."""
    start = position
    for _ in range(3):
        first = _LETTERS.match(text, position)
        if not first:
            return None, start
        is_pair = first[1].casefold() in FIRST_OF_TWO
        second = _LETTERS.match(text, first.end()) if is_pair else None
        if second:
            unit = canonical_unit(f"{first[1]} {second[1]}")
            if unit:
                return unit, second.end()
        unit = canonical_unit(first[1])
        if unit and not (unit in FOOD_UNITS and _ends_name(text, first.end())):
            return unit, first.end()
        if first[1].casefold() not in UNIT_QUALIFIERS:
            return None, start
        position = first.end()
    return None, start


def _ends_name(text: str, position: int) -> bool:
    """Whether nothing that could name a food follows: in `2 cloves, crushed` the cloves are the food."""
    return not text[position : position + 2].strip(" .,;")


def _name_words(rest: str) -> list[str]:
    """Return the food's words in what follows the measure."""
    segments = [segment for segment in _SEGMENT.split(rest) if segment]
    if not segments:
        return []
    adjectives: list[str] = []
    for index, segment in enumerate(segments):
        words = _strip_descriptions(_WORDS.findall(_without_remark(segment)))
        if any(word.casefold() not in ADJECTIVES for word in words):
            return adjectives + words + _list_of_foods(segments[index + 1 :])
        adjectives += words
    return adjectives or _WORDS.findall(segments[0])


def _without_remark(segment: str) -> str:
    """Remove a remark; the search for one begins where a word or digit that can open it was found."""
    opens = not REMARK_OPENERS.isdisjoint(_LETTER_RUNS.findall(segment.casefold())) or _INNER_DIGIT.search(segment)
    return _REMARK.sub("", segment) if opens else segment


def _list_of_foods(segments: list[str]) -> list[str]:
    """Return the words of the segments up to the one that closes a list of foods with `or` or `and`."""
    words: list[str] = []
    for segment in segments[:4]:
        found = _WORDS.findall(_without_remark(segment))
        if not found or found[0].casefold() in _NOT_A_FOOD or len(found) > 6:
            return []
        lowered = [word.casefold() for word in found]
        closes = lowered[0] == "or"
        if closes and (len(found) < 2 or lowered[1] in _NOT_A_FOOD or lowered[1][0].isdigit()):
            return []
        words += found
        if closes or (len(found) > 2 and "or" in lowered[1:-1]):
            return words
    return []


_PREPARED = PREPARATIONS | STATES_AFTER_ADVERB
_NOT_A_FOOD = PREPARATIONS | ALWAYS_ADVERBS | SIZES | COMMENT_WORDS - {"or"}


def _strip_descriptions(words: list[str]) -> list[str]:
    """Remove preparations with their adverbs, and sizes in front of the food's own words."""
    kept: list[str] = []
    after_adverb = False
    for index, raw in enumerate(words):
        word = raw.casefold()
        following = words[index + 1].casefold() if index + 1 < len(words) else ""
        prepared = following in _PREPARED or following in ALWAYS_ADVERBS
        adverb = word in ALWAYS_ADVERBS or (word in ADVERBS and prepared)
        dangling = not kept and word in ("and", "or", "of", "&", "the")
        state = after_adverb and word in STATES_AFTER_ADVERB
        if not (adverb or state or word in PREPARATIONS or dangling or (not kept and word in SIZES)):
            kept.append(raw)
        after_adverb = adverb
    return kept


def _take_trailing_unit(words: list[str]) -> tuple[str | None, list[str]]:
    if len(words) < 2:
        return None, words
    unit = canonical_unit(words[-1])
    return (unit, words[:-1]) if unit in TRAILING_UNITS else (None, words)


def _find_measure(text: str) -> tuple[_Range | None, str | None]:
    """Return the first numeric quantity anywhere in a line, with the unit behind it."""
    match = _NUMERIC_QUANTITY.search(text)
    quantity = _range_of(match) if match else None
    if match is None or quantity is None:
        return None, None
    return quantity, _take_unit(text, match.end())[0]


def _end_of(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position


def _range_of(match: re.Match[str]) -> _Range:
    low = _value(match[1])
    high = _value(match[2]) if match[2] else None
    return low, high if high is not None and high > low else None


@lru_cache(maxsize=4096)
def _value(number: str) -> Fraction:
    """Return the exact value of a number, a mixed number or a number word."""
    number = NUMBER_WORDS.get(" ".join(number.casefold().split()), number)
    mixed = _MIXED.fullmatch(number)
    if mixed:
        return int(mixed[1]) + Fraction(mixed[2])
    return Fraction(number)
