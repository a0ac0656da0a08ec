"""How a kind of dish becomes a recipe: foods are drawn into its slots, and its sentences name them."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeVar

from recipe_exp.data.sample.pantry import PANTRY
from recipe_exp.recipes.recipe import Recipe

_STYLES = (
    *("Autumn", "Classic", "Country", "Easy", "Family", "Golden", "Hearty"),
    *("Homemade", "Quick", "Rustic", "Simple", "Sunday", "Weeknight", "Winter"),
)
_SHARE_OF_TITLES_WITH_A_STYLE = 0.65

_POSITION = {name: position for position, name in enumerate(PANTRY)}
_PLACEHOLDER = re.compile(r"\{([a-z+]+)\}")

Option = TypeVar("Option")
Foods = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in a dish for foods that play the same part.

    Attributes:
        names: the foods that may stand here.
        minimum: how many of them a recipe takes at least.
        maximum: how many of them a recipe takes at most.
        amounts: amounts that fit this dish; empty takes each food's own.
    """

    names: tuple[str, ...]
    minimum: int = 1
    maximum: int = 1
    amounts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Dish:
    """One kind of dish.

    In titles and steps `{part}` stands for the foods of a slot, `{part+other}` for those of several slots as
    one list, and a name in `numbers` for the one number that the recipe draws for it.

    Attributes:
        parts: the slots by name.
        titles: alternatives for the title; one that names an empty part is not chosen.
        steps: the steps in order, each with alternatives. A step whose parts are all empty is left out.
        numbers: the minutes and degrees that the steps need.
    """

    parts: dict[str, Slot]
    titles: tuple[str, ...]
    steps: tuple[tuple[str, ...], ...]
    numbers: dict[str, tuple[str, ...]] = field(default_factory=dict)


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


class Dice:
    """Seeded draws that are the same in every Python version: only `random.Random.random` promises that."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def below(self, limit: int) -> int:
        """Returns an integer from 0 to `limit - 1`."""
        return int(self._random.random() * limit)

    def happens(self, probability: float) -> bool:
        """Returns true with the given probability."""
        return self._random.random() < probability

    def choose(self, options: Sequence[Option]) -> Option:
        """Returns one of the options."""
        return options[self.below(len(options))]

    def choose_some(self, options: Sequence[Option], count: int) -> list[Option]:
        """Returns `count` different options."""
        remaining = list(options)
        return [remaining.pop(self.below(len(remaining))) for _ in range(count)]


def cook(dish: Dish, dice: Dice) -> SampleRecipe:
    """Returns one recipe for the dish."""
    foods: dict[str, list[str]] = {}
    lines: dict[str, str] = {}
    for part, slot in dish.parts.items():
        free = [name for name in slot.names if name not in lines]
        foods[part] = dice.choose_some(free, slot.minimum + dice.below(slot.maximum - slot.minimum + 1))
        for name in foods[part]:
            lines[name] = f"{dice.choose(slot.amounts or PANTRY[name].amounts)} {name}"
    names = tuple(_in_order(lines))
    numbers = {number: dice.choose(options) for number, options in dish.numbers.items()}
    chosen = [dice.choose(alternatives) for alternatives in dish.steps]
    steps = [step for step in chosen if _is_needed(step, foods)]
    recipe = Recipe(
        title=_title(dish, foods, dice),
        ingredients=tuple(lines[name] for name in names),
        instructions=tuple(_fill(step, foods, numbers) for step in steps),
        source="sample",
    )
    uses = tuple(tuple(names.index(name) for name in _foods_named(step, foods)) for step in steps)
    return SampleRecipe(recipe, names, uses)


def _title(dish: Dish, foods: Foods, dice: Dice) -> str:
    whole = [title for title in dish.titles if all(_foods_by_placeholder(title, foods))]
    title = _fill(dice.choose(whole), foods, {}, write=lambda name: PANTRY[name].title)
    return f"{dice.choose(_STYLES)} {title}" if dice.happens(_SHARE_OF_TITLES_WITH_A_STYLE) else title


def _fill(template: str, foods: Foods, numbers: Mapping[str, str], write: Callable[[str], str] = str) -> str:
    """Returns the template with every placeholder replaced; `write` turns a food's name into its text."""

    def replacement(match: re.Match[str]) -> str:
        key = match[1]
        return numbers[key] if key in numbers else _join([write(name) for name in _foods_of(key, foods)])

    return _PLACEHOLDER.sub(replacement, template)


def _join(words: Sequence[str]) -> str:
    """Returns `a`, `a and b` or `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _is_needed(step: str, foods: Foods) -> bool:
    """Whether the step names a food, or could not have named any."""
    named = _foods_by_placeholder(step, foods)
    return any(named) or not named


def _foods_named(template: str, foods: Foods) -> list[str]:
    return _in_order(set(chain.from_iterable(_foods_by_placeholder(template, foods))))


def _foods_by_placeholder(template: str, foods: Foods) -> list[list[str]]:
    """Returns the foods each placeholder stands for, without the placeholders of numbers."""
    keys = _PLACEHOLDER.findall(template)
    return [_foods_of(key, foods) for key in keys if key.split("+")[0] in foods]


def _foods_of(key: str, foods: Foods) -> list[str]:
    return _in_order(chain.from_iterable(foods[part] for part in key.split("+")))


def _in_order(names: Iterable[str]) -> list[str]:
    return sorted(names, key=_POSITION.__getitem__)
