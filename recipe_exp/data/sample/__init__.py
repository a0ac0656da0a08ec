"""An endless, seeded stream of English recipes from a grammar, for tests, demonstrations and first runs.

Every recipe is sound by construction: its steps use exactly the ingredients it lists, and which step uses which
is known, so the stream is ground truth for metrics as well.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

from recipe_exp.data.sample.dishes import DISHES, Dish
from recipe_exp.data.sample.pantry import PANTRY
from recipe_exp.recipes.recipe import Recipe

__all__ = ["SampleRecipe", "sample_recipes", "sample_recipes_with_truth"]

_STYLES = ("Easy", "Quick", "Simple", "Classic", "Family", "Homemade", "Golden", "Sunday")
# Of the titles, this share begins with a word of style.
_STYLED_SHARE = 0.5

_ORDER = {name: position for position, name in enumerate(PANTRY)}
_PLACEHOLDER = re.compile(r"\{([a-z+]+)\}")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SampleRecipe:
    """A recipe with what is known about it.

    Attributes:
        recipe: the recipe; `source` is `sample`.
        names: each ingredient line's food, without its amount.
        uses: for each step, the indices of the ingredient lines that it names, ascending. Every index occurs.
    """

    recipe: Recipe
    names: tuple[str, ...]
    uses: tuple[tuple[int, ...], ...]


def sample_recipes(seed: int = 0) -> Iterator[Recipe]:
    """Yield recipes without end, no two of one seed with the same title and ingredients.

    The same seed yields the same recipes on every machine.
    """
    return (sample.recipe for sample in sample_recipes_with_truth(seed))


def sample_recipes_with_truth(seed: int = 0) -> Iterator[SampleRecipe]:
    """Yield the recipes of `sample_recipes`, each with which step uses which ingredient."""
    dice = _Dice(seed)
    seen: set[bytes] = set()
    while True:
        sample = _cook(dice.choose(DISHES), dice)
        key = "\n".join([sample.recipe.title, *sample.recipe.ingredients])
        digest = hashlib.blake2b(key.encode(), digest_size=12).digest()
        if digest not in seen:
            seen.add(digest)
            yield sample


class _Dice:
    """Draws that are the same in every Python version: only `random.Random.random` promises that."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def below(self, limit: int) -> int:
        return int(self._random.random() * limit)

    def happens(self, probability: float) -> bool:
        return self._random.random() < probability

    def choose(self, options: Sequence[T]) -> T:
        return options[self.below(len(options))]

    def choose_some(self, options: Sequence[T], count: int) -> list[T]:
        remaining = list(options)
        return [remaining.pop(self.below(len(remaining))) for _ in range(count)]


def _cook(dish: Dish, dice: _Dice) -> SampleRecipe:
    """Return one recipe for the dish."""
    foods: dict[str, list[str]] = {}
    lines: dict[str, str] = {}
    for part, slot in dish.parts.items():
        taken = [name for name in slot.names if name not in lines]
        count = slot.minimum + dice.below(slot.maximum - slot.minimum + 1)
        foods[part] = dice.choose_some(taken, count)
        for name in foods[part]:
            lines[name] = f"{dice.choose(slot.amounts or PANTRY[name].amounts)} {name}"
    names = tuple(sorted(lines, key=_ORDER.__getitem__))
    numbers = {name: dice.choose(options) for name, options in dish.numbers.items()}
    chosen = [dice.choose(alternatives) for alternatives in dish.steps]
    steps = [step for step in chosen if _applies(step, foods)]
    recipe = Recipe(
        title=_title(dish, foods, dice),
        ingredients=tuple(lines[name] for name in names),
        instructions=tuple(_fill(step, foods, numbers) for step in steps),
        source="sample",
    )
    uses = tuple(tuple(names.index(name) for name in _named(step, foods)) for step in steps)
    return SampleRecipe(recipe, names, uses)


def _title(dish: Dish, foods: Mapping[str, Sequence[str]], dice: _Dice) -> str:
    titles = {part: [PANTRY[name].title for name in _ordered(names)] for part, names in foods.items()}
    # A title that names an empty part would have a hole where its food should be.
    whole = [title for title in dish.titles if all(_fillings(title, foods))]
    title = _fill_titles(dice.choose(whole), titles)
    return f"{dice.choose(_STYLES)} {title}" if dice.happens(_STYLED_SHARE) else title


def _applies(step: str, foods: Mapping[str, Sequence[str]]) -> bool:
    fillings = _fillings(step, foods)
    return any(fillings) or not fillings
