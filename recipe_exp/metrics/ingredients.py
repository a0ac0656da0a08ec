"""Whether the ingredient list and the steps of a recipe belong together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from functools import lru_cache

from recipe_exp.metrics.metric import Fault, recipe_metric
from recipe_exp.metrics.reading import Reading, words_of
from recipe_exp.metrics.vocabulary import DESCRIPTIONS, FOODS, KINDS, PART_NOUNS

_LIST_FAULTS = (Fault.FOREIGN_INGREDIENTS, Fault.SWAPPED_INGREDIENTS)
_BLIND_TO = (
    Fault.SHUFFLED_STEPS,
    Fault.REVERSED_STEPS,
    Fault.REMOVED_QUANTITIES,
    Fault.PERMUTED_QUANTITIES,
    Fault.SWAPPED_TITLE,
    Fault.DISTORTED_SETTINGS,
)


@recipe_metric(sees=_LIST_FAULTS, ignores=_BLIND_TO)
def ingredient_coverage(reading: Reading) -> float:
    """Share of the listed ingredients that the steps use.

    An ingredient counts as used if the steps contain its distinguishing word, or its head word when no other
    listed ingredient shares that (`juice` alone does not use both lemon juice and orange juice), or a general
    word such as `cheese` for mozzarella. Repeated lines count once. `Mix all ingredients` names nothing and so
    uses nothing; a step that names a food without using it ("the chicken is done") counts as use.
    """
    words = reading.words_in_steps
    foods = [food for food in dict.fromkeys(food_words(part.name) for part in reading.ingredients) if food]
    if not foods or not words:
        return 0.0
    times_listed = Counter(word for food in foods for word in set(food))
    return sum(is_used(food, words, times_listed) for food in foods) / len(foods)


@recipe_metric(sees=(*_LIST_FAULTS, Fault.DROPPED_INGREDIENTS), ignores=_BLIND_TO)
def ingredient_precision(reading: Reading) -> float:
    """Share of the foods named in the steps that the ingredient list contains.

    Foods are the words of the vocabulary `FOODS` and of the list itself, each counted once. Food words outside
    the vocabulary are seen only when they are listed, so an unlisted rarity costs nothing; and a list of one
    word too many costs nothing here, that is what `ingredient_coverage` is for.
    """
    listed = {word for part in reading.ingredients for word in content_words(part.name)}
    named = {word for word in reading.words_in_steps if word in FOODS or word in listed}
    if not named:
        return 0.0
    return sum(_is_listed(word, listed) for word in named) / len(named)


@recipe_metric(sees=(*_LIST_FAULTS, Fault.DROPPED_INGREDIENTS), ignores=_BLIND_TO)
def ingredient_coherence(reading: Reading) -> float:
    """Harmonic mean of `ingredient_coverage` and `ingredient_precision`.

    0 without steps, so leaving out the steps never pays. Blind to quantities, to the order of steps, and to
    whether the listed foods make a dish at all.
    """
    coverage, precision = ingredient_coverage(reading) or 0.0, ingredient_precision(reading) or 0.0
    return 2 * coverage * precision / (coverage + precision) if coverage and precision else 0.0


@lru_cache(maxsize=65536)
def content_words(name: str) -> tuple[str, ...]:
    """Return the words of an ingredient's name that tell it from other foods, else all its words."""
    words = words_of(name)
    return tuple(word for word in words if word not in DESCRIPTIONS) or words


@lru_cache(maxsize=65536)
def food_words(name: str) -> tuple[str, ...]:
    """Return the content words without the nouns for parts (`chicken breast` is `chicken`), head word last."""
    words = content_words(name)
    return tuple(word for word in words if word not in PART_NOUNS) or words


def is_used(food: tuple[str, ...], words: Collection[str], times_listed: Counter[str]) -> bool:
    """Return whether words of steps use a food, given how many listed foods have each word."""
    own = {word for word in food if times_listed[word] == 1} or {food[-1]}
    if not own.isdisjoint(words):
        return True
    return any(kind in words for kind, members in KINDS.items() if not members.isdisjoint(food))


def _is_listed(word: str, listed: set[str]) -> bool:
    return word in listed or not KINDS.get(word, frozenset()).isdisjoint(listed)
