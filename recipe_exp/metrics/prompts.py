"""Whether a recipe is what its prompt asked for."""

from __future__ import annotations

import re

from recipe_exp.metrics.ingredients import food_words
from recipe_exp.metrics.metric import Fault, recipe_metric
from recipe_exp.metrics.reading import Reading, parsed_line

_ALTERNATIVES = re.compile(r"\s+(?:or|and)\s+|\s*[,/&]\s*")

_Foods = list[tuple[str, ...]]


@recipe_metric(
    sees=(Fault.FOREIGN_INGREDIENTS, Fault.SWAPPED_INGREDIENTS, Fault.DROPPED_INGREDIENTS),
    ignores=(
        Fault.SHUFFLED_STEPS,
        Fault.REVERSED_STEPS,
        Fault.TRUNCATED,
        Fault.LOOPING_STEP,
        Fault.SWAPPED_TITLE,
        Fault.DISTORTED_SETTINGS,
    ),
)
def prompt_adherence(reading: Reading) -> float | None:
    """Share of the ingredients asked for that stand in the recipe's ingredient list; only where any are asked for.

    A listed food answers a request if both have the same head word and the listed one has every other word of
    the request: `chicken breasts` answers `chicken`, `chicken stock` does not, `oil` does not answer
    `olive oil`. Of alternatives (`butter or oil`) one is enough. Requests without a food word count as not
    found. Blind to quantities, to ingredients that nobody asked for, and to foods that share a head word:
    `coconut milk` answers `milk`.
    """
    if not reading.prompt_ingredients:
        return None
    listed = [food for part in reading.ingredients for food in _alternatives(part.name)]
    asked = [_alternatives(parsed_line(request).name) for request in reading.prompt_ingredients]
    found = sum(any(_answers(food, request) for food in listed for request in requests) for requests in asked)
    return found / len(reading.prompt_ingredients)


def _alternatives(name: str) -> _Foods:
    return [words for part in _ALTERNATIVES.split(name) if (words := food_words(part))]


def _answers(food: tuple[str, ...], asked: tuple[str, ...]) -> bool:
    return food[-1] == asked[-1] and set(asked) <= set(food)
