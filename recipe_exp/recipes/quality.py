"""A quality score for recipes that bring none: a weighted mean of checks that a reader can follow.

Every check looks at the recipe alone, without a model, and says by how much it is what a cook could follow. None of
them judges the taste: a recipe is measured by whether it is whole, consistent and not machine noise.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_lowercase

from recipe_exp.recipes.recipe import Recipe
from recipe_exp.recipes.text import ascii_fractions
from recipe_exp.recipes.units import LOOSE_UNITS, UNIT_SPELLINGS
from recipe_exp.recipes.words import (
    ADJECTIVES,
    ADVERBS,
    COMMENT_WORDS,
    NUMBER_WORDS,
    PREPARATIONS,
    SIZES,
    STATES_AFTER_ADVERB,
    UNIT_QUALIFIERS,
    singular,
)

# The share of every check in the score; they sum to 1.
WEIGHTS = {
    "quantities": 0.2,
    "used_ingredients": 0.35,
    "lengths": 0.15,
    "repetition": 0.15,
    "ending": 0.15,
}

# Lengths: where a factor is 0, from where to where it is 1, and where it is 0 again; linear in between.
_Ramp = tuple[int, int, int, int]
INGREDIENTS_RAMP: _Ramp = (0, 2, 40, 120)
INGREDIENT_WORDS_RAMP: _Ramp = (0, 1, 15, 45)
STEPS_RAMP: _Ramp = (0, 2, 60, 180)
STEP_WORDS_RAMP: _Ramp = (0, 4, 150, 450)
TITLE_WORDS_RAMP: _Ramp = (0, 1, 20, 60)
# A single step of so many words counts as enough steps: many recipes are one paragraph.
PARAGRAPH_WORDS = 15

# Every ingredient may stand twice, as in a cake and its icing.
_TIMES_A_LINE_MAY_STAND = 2
_PHRASE_WORDS = 5
_UNCLOSED_BRACKET = 0.5
_UNNAMED_IN_ALL_INGREDIENTS = 0.5

_WORD = re.compile(r"[^\W\d_]+")
# In ASCII the same words as `_WORD` finds, in half the time.
_ASCII_LETTERS_ALONE = {code: " " for code in range(128) if not chr(code).isalpha()}
_OTHERS = re.compile(r"[^\w\n,]|[\d_]")
_ASCII_OTHERS = {code: " " for code in _ASCII_LETTERS_ALONE if chr(code) not in "\n,"}
# Kana, ideographs, Thai, Lao, Burmese and Khmer stand without spaces: every character counts as a word.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_PARENTHESES = re.compile(r"\([^()\n]*\)?")

# Not `1//2`, `1/0`, the `100%` of wholemeal flour, or more digits than any kitchen needs.
_NUMBER = re.compile(r"(?<![\d./])(?:\d{1,5}(?:[.,]\d{1,3})?(?:/[1-9]\d?)?|\.\d{1,3})(?![\d/]|\s?[%°])")
_AMOUNT_WORDS = (
    {word for words in NUMBER_WORDS for word in words.split()} | LOOSE_UNITS | {"few", "several", "little", "bit"}
) - {"a", "an", "of"}
_ARTICLES = ("a ", "an ")
_FREE_AMOUNT = re.compile(
    r"\bto taste\b|\bas (?:needed|required|desired|necessary)\b|\boptional\b"
    r"|\bto (?:serve|garnish|cover|decorate|finish)\b|\bfor (?:\w+ )?(?:\w+ing|decoration)\b"
    r"|\baccompaniments?\b|\bgarnish(?:es)?\b"
)
# What a cook takes without measuring, with the words that stand beside it.
_UNMEASURED = frozenset(
    {
        *("salt", "pepper", "peppercorn", "seasoning", "water", "ice", "oil", "spray", "cooking", "nonstick", "olive"),
        *("vegetable", "kosher", "sea", "table", "ground", "cracked", "coarse", "flaky", "extra", "virgin"),
    }
)
# A unit without its number has lost it; but `ice cubes` are only ice.
_UNITS = frozenset(UNIT_SPELLINGS) - {"cube"}

_NOT_FOOD = frozenset(
    word
    for words in (
        *UNIT_SPELLINGS,
        *NUMBER_WORDS,
        *(SIZES | UNIT_QUALIFIERS | ADVERBS | PREPARATIONS | STATES_AFTER_ADVERB | ADJECTIVES | COMMENT_WORDS),
        *("of", "the", "taste", "needed", "few", "little", "some", *ascii_lowercase),
    )
    for word in words.split()
)
_ALL_INGREDIENTS = ("ingredient", "everything")

_SENTENCE_END = (".", "!", "?", ")", "]", '"', "'", "”", "’", "»", "。", "！", "？", "）", "」", "؟", "।", "։", "۔")
_INNER_END = re.compile(r"[.!?。！？؟।։۔](?:\s|$)")
_ELLIPSES = ("...", "…", ". . .")
_TEASERS = ("read more", "see more", "show more", "view more", "learn more", "continue reading", "click here")
_CLOSING_MARKS = " )]}>\"'”’»"
_DANGLING = re.compile(
    r"(?:[,;:&-]|\b(?:a|an|the|and|or|of|to|in|into|on|with|for|until|about|at|from|by|over|then))$", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class QualityChecks:
    """What was found out about a recipe, every check in [0, 1] and higher where it is better.

    A check is 0 where there is nothing to look at: `repetition` and `ending` without steps, the others without
    ingredients. Ingredients that end with a colon are headings and are not looked at; neither are blank lines.

    Attributes:
        quantities: the share of ingredient lines that state a quantity, or need none. 1 if each has a number
            (`2 eggs`, `Mehl 200 g`), a word for one or a loose measure (`half a lemon`, `pinch of salt`), is seasoned
            or served at will (`to taste`, `for frying`, `optional`), or is salt, pepper, water, ice or oil; 0 if none.
        used_ingredients: the share of ingredient lines of which the steps name a word of the food. 1 if all are
            named, 0 if none is. Where the steps speak of `all ingredients` or of `everything`, each that is not named
            counts half.
        lengths: the product of five factors that fall linearly to both sides of what is usual (the constants
            `..._RAMP`): the number of ingredients (1 from 2 to 40) and of steps (1 from 2 to 60, or in one paragraph
            of 15 words), the mean number of words in an ingredient line (1 up to 15, separated by spaces) and in a
            step (1 from 4 to 150), the words of the title (1 up to 20). 0 if one of them is missing, or three times
            too long.
        repetition: the product of the shares that repeat nothing: of the steps, those that no earlier step equals; of
            the ingredient lines, the first two of a kind; of the steps' runs of five words, the different ones. 1 if
            nothing is repeated, near 0 in a loop.
        ending: 0 if the last step is cut off, or title, last ingredient or last step end in `...` or `read more`; half
            if a bracket is never closed; else 1. A step without final punctuation is cut off where the steps use any,
            and in steps without any if it ends with a comma or a word such as `and`.
    """

    quantities: float
    used_ingredients: float
    lengths: float
    repetition: float
    ending: float

    @property
    def score(self) -> float:
        """The mean of the checks weighted by `WEIGHTS`, in [0, 1], rounded to four digits.

        A check that rises never lowers it.
        """
        weighted = (
            WEIGHTS["quantities"] * self.quantities
            + WEIGHTS["used_ingredients"] * self.used_ingredients
            + WEIGHTS["lengths"] * self.lengths
            + WEIGHTS["repetition"] * self.repetition
            + WEIGHTS["ending"] * self.ending
        )
        return min(1.0, round(weighted, 4))


def quality_checks(recipe: Recipe) -> QualityChecks:
    """Return the checks of a recipe; never raises, and depends on nothing but title, ingredients and steps.

    Words are English where words are needed. In another language a quantity must be a number and the seasonings count
    as lines without one; where nouns change more than at their end, fewer ingredients are found in the steps. Both cost
    at most what `quantities` and `used_ingredients` weigh, and neither `lengths`, `repetition` nor `ending` anything.
    """
    lines_text = "\n".join([line for text in recipe.ingredients if (line := text.strip()) and line[-1] != ":"])
    lines_text = ascii_fractions(lines_text).lower()
    lines = lines_text.split("\n") if lines_text else []
    steps = [step for text in recipe.instructions if (step := text.strip())]
    text = "\n".join(steps).lower()
    words = _words(text)
    num_title_words = _count_words(recipe.title, _words(recipe.title))
    is_closed = _is_closed(lines_text) and _is_closed(text)
    return QualityChecks(
        quantities=sum(map(_has_quantity, lines)) / len(lines) if lines else 0.0,
        used_ingredients=_used_share(lines_text, words, text) if lines else 0.0,
        lengths=_lengths(num_title_words, lines, len(steps), _count_words(text, words)),
        repetition=_repetition(lines, text.split("\n"), words),
        ending=(1.0 if is_closed else _UNCLOSED_BRACKET) if _is_whole(recipe.title, lines, steps) else 0.0,
    )


def _words(text: str) -> list[str]:
    return text.translate(_ASCII_LETTERS_ALONE).split() if text.isascii() else _WORD.findall(text)


def _count_words(text: str, words: Sequence[str]) -> int:
    """Return the number of a text's words, where `words` are those that spaces and marks divide."""
    return len(words) if text.isascii() else len(_words(_UNSPACED.sub(r" \g<0> ", text)))


def _has_quantity(line: str) -> bool:
    """Whether a lower-case ingredient line states a quantity or needs none."""
    if _NUMBER.search(line) or line.startswith(_ARTICLES):
        return True
    words = set(map(singular, _words(line)))
    if not words.isdisjoint(_AMOUNT_WORDS) or _FREE_AMOUNT.search(line):
        return True
    return bool(words) and words.isdisjoint(_UNITS) and words - _NOT_FOOD <= _UNMEASURED


def _used_share(lines_text: str, words: Sequence[str], text: str) -> float:
    """Return the share of the lines of a lower-case text of ingredients that steps with these words name."""
    named = set(words)
    named.update([singular(word) for word in named if word[-1] == "s"])
    named_foods = named - _NOT_FOOD
    lines = _letters(_PARENTHESES.sub(" ", lines_text) if "(" in lines_text else lines_text).split("\n")
    num_unnamed = 0
    for line in lines:
        parts = line.split(",")
        if named_foods.isdisjoint(parts[0].split()) and not _is_named(parts, named, text):
            num_unnamed += 1
    unnamed_weight = 1 - _UNNAMED_IN_ALL_INGREDIENTS if any(word in text for word in _ALL_INGREDIENTS) else 1.0
    return 1 - unnamed_weight * num_unnamed / len(lines)


def _letters(text: str) -> str:
    """Return the text with its letters, commas and line breaks, and spaces for all else."""
    return text.translate(_ASCII_OTHERS) if text.isascii() else _OTHERS.sub(" ", text)


def _is_named(parts: Sequence[str], named: set[str], text: str) -> bool:
    foods = _food_words(parts)
    return not named.isdisjoint(foods) or any(stem in text for stem in map(_stem, foods) if stem)


def _food_words(parts: Sequence[str]) -> set[str]:
    """Return the words of the first part that names a food, or all where none does, as in `4 cloves, crushed`."""
    for part in parts:
        foods = set(map(singular, part.split())) - _NOT_FOOD
        if foods:
            return foods
    return set(map(singular, " ".join(parts).split()))


def _stem(word: str) -> str:
    """Return what a longer form or compound of the word contains, or nothing where the word says too little."""
    if word.isascii():
        return word[:-1] if len(word) > 5 else ""
    return word[:-1] if len(word) > 3 else word


def _lengths(num_title_words: int, lines: Sequence[str], num_steps: int, num_words: int) -> float:
    if not lines or not num_steps:
        return 0.0
    steps = _ramp(num_steps, STEPS_RAMP)
    if num_steps == 1:
        steps = max(steps, min(1.0, num_words / PARAGRAPH_WORDS))
    num_line_words = len(lines) + sum([line.count(" ") for line in lines])
    return (
        steps
        * _ramp(len(lines), INGREDIENTS_RAMP)
        * _ramp(num_line_words / len(lines), INGREDIENT_WORDS_RAMP)
        * _ramp(num_words / num_steps, STEP_WORDS_RAMP)
        * _ramp(num_title_words, TITLE_WORDS_RAMP)
    )


def _ramp(value: float, ramp: _Ramp) -> float:
    zero_at, full_from, full_to, zero_again = ramp
    if full_from <= value <= full_to:
        return 1.0
    return max(0.0, min((value - zero_at) / (full_from - zero_at), (zero_again - value) / (zero_again - full_to)))


def _repetition(lines: Sequence[str], steps: Sequence[str], words: Sequence[str]) -> float:
    """Return the check of lower-case ingredient lines and steps; `words` are those of the steps."""
    if not words:
        return 0.0
    different = len(set(steps)) / len(steps)
    if len(words) > _PHRASE_WORDS:
        phrases = zip(*[words[start:] for start in range(_PHRASE_WORDS)], strict=False)
        different *= len(set(phrases)) / (len(words) - _PHRASE_WORDS + 1)
    if len(set(lines)) < len(lines):
        different *= sum(min(times, _TIMES_A_LINE_MAY_STAND) for times in Counter(lines).values()) / len(lines)
    return different


def _is_whole(title: str, lines: Sequence[str], steps: Sequence[str]) -> bool:
    """Whether there are steps, and neither they nor another part breaks off."""
    if not steps or _is_cut_off(steps):
        return False
    return not (_is_teaser(title) or _is_teaser(steps[-1]) or (lines and _is_teaser(lines[-1])))


def _is_teaser(text: str) -> bool:
    tail = text[-40:].rstrip(_CLOSING_MARKS)
    return tail.endswith(_ELLIPSES) or tail.rstrip(".:!…- ").lower().endswith(_TEASERS)


def _is_closed(text: str) -> bool:
    """Whether no more brackets open than close; `1)` in front of a step may close what nothing opened."""
    return text.count("(") <= text.count(")") and text.count("[") <= text.count("]")


def _is_cut_off(steps: Sequence[str]) -> bool:
    last = steps[-1]
    if last.endswith(_SENTENCE_END):
        return False
    return any(map(_INNER_END.search, steps)) or bool(_DANGLING.search(last))
