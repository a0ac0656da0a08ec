"""Which amounts of which food recipes take: counts learnt from training recipes, and the metrics made of them."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from recipe_exp.metrics.ingredients import content_words
from recipe_exp.metrics.metric import Fault, recipe_metric
from recipe_exp.metrics.reading import Reading
from recipe_exp.recipes import Ingredient, Recipe, parse_ingredient

MAX_FOODS = 20_000
MAX_AMOUNTS = 60
_MIN_LINES = 3
# How many lines of the wider class a class of few lines is thought to have seen.
_PRIOR_LINES = 3.0
_NO_NUMBER = "?"

_BLIND_TO = (
    Fault.SHUFFLED_STEPS,
    Fault.REVERSED_STEPS,
    Fault.TRUNCATED,
    Fault.LOOPING_STEP,
    Fault.SWAPPED_TITLE,
    Fault.DISTORTED_SETTINGS,
)


@dataclass(frozen=True)
class Amounts:
    """How often training recipes take which amount.

    Attributes:
        overall: amount -> ingredient lines with it.
        of_food: food -> the same of its lines; a food is named by all its words and by its last one alone.
    """

    overall: Mapping[str, int]
    of_food: Mapping[str, Mapping[str, int]]

    @classmethod
    def fit(cls, ingredients: Iterable[Ingredient], amount_of: Callable[[Ingredient], str]) -> Amounts:
        """Return the counts of the 20,000 most frequent foods with their 60 most frequent amounts."""
        overall: Counter[str] = Counter()
        of_food: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for ingredient in ingredients:
            amount = amount_of(ingredient)
            overall[amount] += 1
            for food in set(_names_of(ingredient)):
                of_food[food][amount] += 1
        kept = sorted(of_food, key=lambda food: (-of_food[food].total(), food))[:MAX_FOODS]
        foods = {food: of_food[food] for food in kept if of_food[food].total() >= _MIN_LINES}
        return cls(dict(overall), {food: dict(counts.most_common(MAX_AMOUNTS)) for food, counts in foods.items()})

    @cached_property
    def _num_lines(self) -> int:
        return sum(self.overall.values())

    @cached_property
    def _num_lines_of(self) -> dict[str, int]:
        return {food: sum(counts.values()) for food, counts in self.of_food.items()}

    def plausibility(self, ingredient: Ingredient, amount: str) -> float:
        """Return the odds, as a probability, that the amount was written for this food rather than for any food.

        0.5 where the food is unknown, or takes the amount as often as foods do on the whole. Few lines of a food lean
        on those with its last word, and these on all lines.
        """
        base = (self.overall.get(amount, 0) + 1) / (self._num_lines + len(self.overall) + 1)
        probability = base
        for food in reversed(_names_of(ingredient)):
            counts = self.of_food.get(food)
            if counts:
                num_lines = self._num_lines_of[food] + _PRIOR_LINES
                probability = (counts.get(amount, 0) + _PRIOR_LINES * probability) / num_lines
        return probability / (probability + base)


@recipe_metric(sees=(Fault.REMOVED_QUANTITIES, Fault.PERMUTED_QUANTITIES), ignores=_BLIND_TO)
def quantity_plausibility(reading: Reading) -> float | None:
    """Mean over the ingredient lines of how well the amount suits the food: `2 cups` of flour, not of salt.

    The probability, by training recipes, that quantity and unit were written for this food rather than for any
    other, at even odds; 0.5 for unknown foods. A missing amount is judged like one: flour needs a number, salt none.
    Amounts within a factor of 1.4 count as one. Blind to proportions between foods (twice everything), to units that
    training does not use, and kinder to frequent habits than to rare right ones.
    """
    if reading.knowledge is None:
        return None
    return _mean_plausibility(reading, reading.knowledge.quantities, amount_class)


@recipe_metric(sees=(Fault.REMOVED_QUANTITIES, Fault.PERMUTED_QUANTITIES), ignores=_BLIND_TO)
def unit_plausibility(reading: Reading) -> float | None:
    """Mean over the ingredient lines of how well the unit suits the food: cloves of garlic, not of flour.

    As `quantity_plausibility`, of the unit alone (a plain number and no number at all count as units). Blind to
    numbers: `50 cups flour` is well.
    """
    if reading.knowledge is None:
        return None
    return _mean_plausibility(reading, reading.knowledge.units, unit_class)


def amount_class(ingredient: Ingredient) -> str:
    """Return unit and order of magnitude, half an octave each: `cup 0` for one cup, `cup 2` for two, `?` for none."""
    if ingredient.quantity is None:
        return f"{ingredient.unit or ''} {_NO_NUMBER}"
    return f"{ingredient.unit or ''} {_magnitude(ingredient.quantity)}"


def unit_class(ingredient: Ingredient) -> str:
    """Return the unit, or the empty name for a plain number and `?` for no measure at all."""
    return ingredient.unit or ("" if ingredient.quantity is not None else _NO_NUMBER)


def ingredients_of(recipes: Iterable[Recipe]) -> Iterable[Ingredient]:
    """Yield the parts of every ingredient line."""
    for recipe in recipes:
        yield from map(parse_ingredient, recipe.ingredients)


def _magnitude(quantity: Fraction) -> int:
    return round(2 * math.log2(quantity)) if quantity > 0 else -99


def _names_of(ingredient: Ingredient) -> tuple[str, ...]:
    """Return the food's whole name and its last word, each once."""
    words = content_words(ingredient.name)
    return tuple(dict.fromkeys((" ".join(words), words[-1]))) if words else ()


def _mean_plausibility(reading: Reading, amounts: Amounts, amount_of: Callable[[Ingredient], str]) -> float:
    scores = [amounts.plausibility(ingredient, amount_of(ingredient)) for ingredient in reading.ingredients]
    return math.fsum(scores) / len(scores) if scores else 0.0
