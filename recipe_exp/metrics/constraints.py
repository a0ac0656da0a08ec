"""Constraints that a prompt can state: diets, foods to leave out, a time, a number of ingredients; and the metric."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from recipe_exp.metrics.metric import Fault, recipe_metric
from recipe_exp.metrics.reading import Reading, parsed_line, words_of
from recipe_exp.metrics.vocabulary import FOODS, KINDS, word_set
from recipe_exp.recipes import singular

_MEAT = KINDS["meat"] | KINDS["poultry"] | KINDS["fish"] | KINDS["seafood"]
_MEAT |= {"meat", "fish", "anchovy", "prosciutto", "pancetta", "pepperoni", "lard", "suet", "gelatin", "rabbit"}
_DAIRY = KINDS["cheese"] | {"milk", "butter", "cream", "cheese", "yogurt", "yoghurt", "buttermilk", "ghee", "whey"}
_GLUTEN = word_set("flour wheat bread breadcrumb barley rye couscous bulgur semolina pasta noodle cracker")
_GLUTEN |= KINDS["pasta"]
_EGG = frozenset({"egg", "yolk", "mayonnaise"})
DIETS: dict[str, frozenset[str]] = {
    "vegetarian": frozenset(_MEAT),
    "vegan": frozenset(_MEAT | _DAIRY | _EGG | {"honey"}),
    "gluten-free": frozenset(_GLUTEN),
    "dairy-free": frozenset(_DAIRY),
    "nut-free": frozenset(KINDS["nut"] | {"nut", "peanut"}),
    "egg-free": _EGG,
}
# A food that each diet forbids.
FORBIDDEN_FOODS = {
    "vegetarian": "ham",
    "vegan": "honey",
    "gluten-free": "barley",
    "dairy-free": "buttermilk",
    "nut-free": "walnuts",
    "egg-free": "mayonnaise",
}
# A word in front of it that makes another food of it: `coconut milk` is no dairy, `rice flour` has no gluten.
_HARMLESS = {
    **dict.fromkeys(("milk", "cream", "yogurt", "cheese"), word_set("coconut almond soy oat vegan")),
    "butter": word_set("peanut almond cocoa apple coconut vegan"),
    **dict.fromkeys(("flour", "noodle", "pasta", "bread"), word_set("rice almond coconut corn gluten-free")),
}

_DIET = re.compile(r"\b(vegetarian|vegan|(?:gluten|dairy|nut|egg)[- ]free)\b", re.IGNORECASE)
_FREE = re.compile(r"\b([^\W\d_]+)[- ]free\b", re.IGNORECASE)
_WITHOUT = re.compile(r"\b(?:without|no)\s+((?:[^\W\d_]+(?:,?\s+(?:and|or)\s+|,\s*|\s+)?)+)", re.IGNORECASE)
_MINUTES = re.compile(r"\b(\d{1,3})[- ]?(minute|min|hour)s?\b", re.IGNORECASE)
_COUNT = re.compile(r"\b(\d{1,2})[- ]ingredients?\b", re.IGNORECASE)
_STATED_TIME = re.compile(
    r"(?<![\d/.])(\d{1,3})(?:\s*(?:-|–|to|or)\s*\d+)?[\s-]*(minute|min|hour|hr)s?\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Constraint:
    """One thing that a prompt asks of a recipe.

    Attributes:
        text: how it is put, as in `without walnut`.
        is_met: whether a recipe with an ingredient list and steps meets it.
    """

    text: str
    is_met: Callable[[Reading], bool]


@recipe_metric(
    sees=(Fault.FORBIDDEN_INGREDIENT,),
    ignores=(
        Fault.SHUFFLED_STEPS,
        Fault.REVERSED_STEPS,
        Fault.REMOVED_QUANTITIES,
        Fault.PERMUTED_QUANTITIES,
        Fault.SWAPPED_TITLE,
    ),
)
def constraint_adherence(reading: Reading) -> float | None:
    """Share of the prompt's constraints that the recipe meets; only where the prompt states any.

    Constraints are a diet (vegetarian, vegan, gluten-, dairy-, nut- or egg-free), foods to leave out (`without
    walnuts`, `no onion`, `sugar-free`), a time (`30 minute`: the first number of every time in the steps, summed) and
    a number of ingredients (`5 ingredient`). 0 for a recipe without ingredients or steps. Diets go by lists
    of words in the ingredient lines: a food they do not have passes. A time counts work done side by side twice.
    """
    constraints = list(stated_constraints(reading.prompt, reading.prompt_ingredients))
    if not constraints:
        return None
    recipe = reading.recipe
    if not recipe.ingredients or not recipe.instructions:
        return 0.0
    return sum(constraint.is_met(reading) for constraint in constraints) / len(constraints)


def stated_constraints(prompt: str, prompt_ingredients: tuple[str, ...] = ()) -> Iterator[Constraint]:
    """Yield what a prompt asks for, each thing once; its ingredient lines state nothing but themselves."""
    for line in prompt_ingredients:
        prompt = prompt.replace(line, " ")
    diets = {match[1].casefold().replace(" ", "-") for match in _DIET.finditer(prompt)}
    for diet in sorted(diets):
        yield Constraint(diet, _Avoids(DIETS[diet]))
    for food in sorted(_unwanted_foods(prompt) - {diet.partition("-")[0] for diet in diets}):
        yield Constraint(f"without {food}", _Avoids(KINDS.get(food, frozenset()) | {food}))
    for match in _MINUTES.finditer(prompt):
        minutes = int(match[1]) * (60 if match[2].casefold() == "hour" else 1)
        yield Constraint(f"within {minutes} minutes", _Lasts(minutes))
    for match in _COUNT.finditer(prompt):
        yield Constraint(f"{match[1]} ingredients", _Lists(int(match[1])))


def kept_diets(ingredients: Sequence[str]) -> tuple[str, ...]:
    """Return the diets that forbid none of the ingredient lines."""
    names = [words_of(parsed_line(line).name) for line in ingredients]
    return tuple(diet for diet, foods in DIETS.items() if _Avoids(foods).is_met_by(names))


@dataclass(frozen=True, slots=True)
class _Avoids:
    foods: frozenset[str]

    def __call__(self, reading: Reading) -> bool:
        return self.is_met_by([words_of(part.name) for part in reading.ingredients])

    def is_met_by(self, names: Sequence[tuple[str, ...]]) -> bool:
        return not any(map(self._is_in, names))

    def _is_in(self, words: tuple[str, ...]) -> bool:
        return any(
            word in self.foods and _HARMLESS.get(word, frozenset()).isdisjoint(words[:index])
            for index, word in enumerate(words)
        )


@dataclass(frozen=True, slots=True)
class _Lasts:
    minutes: int

    def __call__(self, reading: Reading) -> bool:
        times = _STATED_TIME.findall(reading.instructions)
        return sum(int(number) * (60 if unit[0] in "hH" else 1) for number, unit in times) <= self.minutes


@dataclass(frozen=True, slots=True)
class _Lists:
    most: int

    def __call__(self, reading: Reading) -> bool:
        return len(reading.recipe.ingredients) <= self.most


def _unwanted_foods(prompt: str) -> set[str]:
    named = [match[1] for match in _FREE.finditer(prompt)]
    named += [word for match in _WITHOUT.finditer(prompt) for word in match[1].replace(",", " ").split()]
    words = {singular(word.casefold()) for word in named}
    return {word for word in words if word in FOODS or word in KINDS}
