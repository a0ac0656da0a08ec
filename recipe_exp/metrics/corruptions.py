"""Recipes spoilt on purpose, each in one way, to see which metric notices.

A corruption is pure: the same recipe, donor and seed give the same text, which differs from the recipe's own in what
the corruption is about. Where it cannot change a recipe (there is one step to shuffle) it gives None.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from recipe_exp.metrics.constraints import FORBIDDEN_FOODS, kept_diets
from recipe_exp.metrics.ingredients import food_words, is_used
from recipe_exp.metrics.metric import Fault
from recipe_exp.metrics.reading import parsed_line, words_of
from recipe_exp.recipes import (
    Ingredient,
    Recipe,
    normalise_title,
    parse_ingredient,
    render_markdown,
    split_measure,
)

SEVERITIES = (0.1, 0.3, 0.5, 1.0)

_MIN_SHUFFLED_STEPS = 3
_LOOP_LENGTHS = {0.1: 1, 0.3: 2, 0.5: 4, 1.0: 8}
_SETTING = re.compile(
    r"\b(\d{1,4})(?=\s*(?:°|º|degrees?\b|minutes?\b|mins?\b|hours?\b|hrs?\b)|\s*(?:-|to|or)\s*\d+\s*"
    r"(?:°|º|degrees?\b|minutes?\b|mins?\b|hours?\b))"
)
_SETTING_FACTOR = 50


@dataclass(frozen=True)
class Case:
    """What a corruption works on.

    Attributes:
        recipe: the genuine recipe.
        donor: another genuine recipe, from which foreign parts come.
        severity: share of what can be spoilt that is, in (0, 1].
        random: the only source of chance.
    """

    recipe: Recipe
    donor: Recipe
    severity: float
    random: Random


Spoil = Callable[[Case], Recipe | str | None]


@dataclass(frozen=True)
class Corruption:
    """One way to spoil a recipe.

    Attributes:
        fault: its name.
        spoil: returns the spoilt recipe, or the text where it is no longer a whole recipe.
        severity: the severity that a table without severities shows.
        has_severities: whether more and less of it makes sense.
    """

    fault: Fault
    spoil: Spoil
    severity: float = 1.0
    has_severities: bool = False

    def __call__(self, recipe: Recipe, donor: Recipe, *, seed: int, severity: float | None = None) -> str | None:
        """Return the markdown text of the spoilt recipe, or None if this one cannot be spoilt so.

        Args:
            recipe: the genuine recipe.
            donor: another recipe, of another title.
            seed: of every choice that is drawn.
            severity: in (0, 1], None for the corruption's own.
        """
        chosen = self.severity if severity is None else severity
        spoilt = self.spoil(Case(recipe, donor, chosen, Random(f"{seed} {self.fault} {recipe.title}")))
        if spoilt is None:
            return None
        text = spoilt if isinstance(spoilt, str) else render_markdown(spoilt)
        return text if text != render_markdown(recipe) else None


def shuffled_steps(case: Case) -> Recipe | None:
    """Put steps in a random other order; a lower severity moves fewer of them. Needs three different steps."""
    steps = case.recipe.instructions
    if len(set(steps)) < _MIN_SHUFFLED_STEPS:
        return None
    chosen = sorted(case.random.sample(range(len(steps)), max(2, _share_of(len(steps), case.severity))))
    if len({steps[index] for index in chosen}) < 2:
        return None
    mixed = list(chosen)
    while [steps[index] for index in mixed] == [steps[index] for index in chosen]:
        case.random.shuffle(mixed)
    changed = list(steps)
    for place, source in zip(chosen, mixed, strict=True):
        changed[place] = steps[source]
    return replace(case.recipe, instructions=tuple(changed))


def reversed_steps(case: Case) -> Recipe | None:
    """Put the last step first, and so on."""
    return replace(case.recipe, instructions=case.recipe.instructions[::-1])


def foreign_ingredients(case: Case) -> Recipe | None:
    """Put the donor's ingredient list in the place of the recipe's."""
    return replace(case.recipe, ingredients=case.donor.ingredients) if case.donor.ingredients else None


def swapped_ingredients(case: Case) -> Recipe | None:
    """Put lines of the donor, of foods that the recipe does not list, in the place of some lines."""
    lines = list(case.recipe.ingredients)
    own = {food_words(parsed_line(line).name) for line in lines}
    foreign = [line for line in case.donor.ingredients if food_words(parsed_line(line).name) not in own]
    count = min(_share_of(len(lines), case.severity), len(foreign))
    if count == 0:
        return None
    for place, line in zip(
        case.random.sample(range(len(lines)), count), case.random.sample(foreign, count), strict=True
    ):
        lines[place] = line
    return replace(case.recipe, ingredients=tuple(lines))


def dropped_ingredients(case: Case) -> Recipe | None:
    """Leave out some of the lines whose foods the steps name; a line of several foods goes as a whole."""
    lines = case.recipe.ingredients
    used = _used_places(case.recipe)
    if not used:
        return None
    dropped = set(case.random.sample(used, _share_of(len(used), case.severity)))
    return replace(case.recipe, ingredients=tuple(line for place, line in enumerate(lines) if place not in dropped))


def dropped_section(case: Case) -> str | None:
    """Leave out the title, the ingredients or the instructions, with their heading."""
    sections = render_markdown(case.recipe).split("\n\n")
    if len(sections) != 3:
        return None
    del sections[case.random.randrange(3)]
    return "\n\n".join(sections)


def removed_quantities(case: Case) -> Recipe | None:
    """Leave out quantity and unit of some of the lines that have them."""
    lines = list(case.recipe.ingredients)
    measured = [place for place, line in enumerate(lines) if all(split_measure(line))]
    if not measured:
        return None
    for place in case.random.sample(measured, _share_of(len(measured), case.severity)):
        lines[place] = split_measure(lines[place])[1]
    return replace(case.recipe, ingredients=tuple(lines))


def permuted_quantities(case: Case) -> Recipe | None:
    """Exchange quantities, with their units, between some of the lines, each for one that is worth another amount."""
    lines = list(case.recipe.ingredients)
    measured = [place for place, line in enumerate(lines) if all(split_measure(line))]
    amounts = {place: _amount(parse_ingredient(lines[place])) for place in measured}
    if len(set(amounts.values())) < 2:
        return None
    chosen = case.random.sample(measured, max(2, _share_of(len(measured), case.severity)))
    if len({amounts[place] for place in chosen}) < 2:
        chosen = measured
    mixed = _exchanged(chosen, amounts, case.random)
    old = {place: split_measure(lines[place]) for place in chosen}
    for place, source in zip(chosen, mixed, strict=True):
        if amounts[place] != amounts[source]:
            lines[place] = f"{old[source][0]} {old[place][1]}"
    return replace(case.recipe, ingredients=tuple(lines))


def truncated(case: Case) -> str | None:
    """Cut the text behind a word inside a sentence, so that a share of the words of the steps is missing."""
    text = render_markdown(case.recipe)
    start = len(render_markdown(replace(case.recipe, instructions=())))
    ends = [match.end() for match in re.finditer(r"\w(?=\s\w)", text[start:])]
    ends = [end for end in ends if text[start + end - 1].isalpha()]
    if not ends:
        return None
    wanted = (1 - case.severity * case.random.random()) * (len(text) - start)
    return text[: start + min(ends, key=lambda end: (abs(end - wanted), end))]


def looping_step(case: Case) -> Recipe | None:
    """Write one step again and again: once to eight times more, by severity."""
    steps = case.recipe.instructions
    if not steps:
        return None
    place = case.random.randrange(len(steps))
    times = next(times for severity, times in _LOOP_LENGTHS.items() if case.severity <= severity)
    return replace(
        case.recipe, instructions=(*steps[: place + 1], *steps[place : place + 1] * times, *steps[place + 1 :])
    )


def swapped_title(case: Case) -> Recipe | None:
    """Put the donor's title above the recipe."""
    if normalise_title(case.donor.title) in ("", normalise_title(case.recipe.title)):
        return None
    return replace(case.recipe, title=case.donor.title)


def distorted_settings(case: Case) -> Recipe | None:
    """Multiply some of the temperatures and times by 50."""
    steps = list(case.recipe.instructions)
    found = [(place, match) for place, step in enumerate(steps) for match in _SETTING.finditer(step)]
    found = [(place, match) for place, match in found if int(match[1])]
    if not found:
        return None
    chosen = set(case.random.sample(range(len(found)), _share_of(len(found), case.severity)))
    # From the back, so that earlier places in a step stay where they are.
    for index in sorted(chosen, reverse=True):
        place, match = found[index]
        step = steps[place]
        steps[place] = f"{step[: match.start()]}{int(match[1]) * _SETTING_FACTOR}{step[match.end() :]}"
    return replace(case.recipe, instructions=tuple(steps))


def copied(case: Case) -> Recipe | None:
    """Put the steps of the donor, for this corruption a training recipe, in the place of some of the recipe's."""
    steps = list(case.recipe.instructions)
    count = _share_of(len(steps), case.severity)
    if not steps or not case.donor.instructions:
        return None
    kept = steps[: len(steps) - count]
    return replace(case.recipe, instructions=(*kept, *case.donor.instructions[:count])) if count else None


def forbidden_ingredient(case: Case) -> Recipe | None:
    """Put a food that a diet forbids to which the recipe keeps in the place of an ingredient, in the same amount."""
    lines = case.recipe.ingredients
    foods = [food for diet, food in FORBIDDEN_FOODS.items() if lines and diet in kept_diets(lines)]
    if not foods:
        return None
    place = case.random.randrange(len(lines))
    line = f"{split_measure(lines[place])[0]} {case.random.choice(foods)}".strip()
    return replace(case.recipe, ingredients=(*lines[:place], line, *lines[place + 1 :]))


_CORRUPTIONS = (
    Corruption(Fault.SHUFFLED_STEPS, shuffled_steps, has_severities=True),
    Corruption(Fault.REVERSED_STEPS, reversed_steps),
    Corruption(Fault.FOREIGN_INGREDIENTS, foreign_ingredients),
    Corruption(Fault.SWAPPED_INGREDIENTS, swapped_ingredients, severity=0.3, has_severities=True),
    Corruption(Fault.DROPPED_INGREDIENTS, dropped_ingredients, severity=0.5, has_severities=True),
    Corruption(Fault.DROPPED_SECTION, dropped_section),
    Corruption(Fault.REMOVED_QUANTITIES, removed_quantities, has_severities=True),
    Corruption(Fault.PERMUTED_QUANTITIES, permuted_quantities, has_severities=True),
    Corruption(Fault.TRUNCATED, truncated, has_severities=True),
    Corruption(Fault.LOOPING_STEP, looping_step, severity=0.5, has_severities=True),
    Corruption(Fault.SWAPPED_TITLE, swapped_title),
    Corruption(Fault.DISTORTED_SETTINGS, distorted_settings, has_severities=True),
    Corruption(Fault.COPIED, copied, has_severities=True),
    Corruption(Fault.FORBIDDEN_INGREDIENT, forbidden_ingredient),
)
CORRUPTIONS: Mapping[Fault, Corruption] = {corruption.fault: corruption for corruption in _CORRUPTIONS}


def _share_of(count: int, severity: float) -> int:
    """Return how many of `count` things a severity spoils: at least one if there is any."""
    return min(count, max(1, round(count * severity)))


def _used_places(recipe: Recipe) -> list[int]:
    named = {word for step in recipe.instructions for word in words_of(step)}
    foods = [food_words(parsed_line(line).name) for line in recipe.ingredients]
    times_listed = Counter(word for food in set(foods) for word in set(food))
    return [place for place, food in enumerate(foods) if food and is_used(food, named, times_listed)]


def _amount(ingredient: Ingredient) -> tuple[object, object]:
    return ingredient.quantity, ingredient.unit


def _exchanged(places: Sequence[int], amounts: Mapping[int, object], random: Random) -> list[int]:
    """Return the places in an order in which as many as possible of a hundred draws get another amount."""
    best: list[int] = list(places)
    most = 0
    for _ in range(100):
        mixed = list(places)
        random.shuffle(mixed)
        changed = sum(amounts[a] != amounts[b] for a, b in zip(places, mixed, strict=True))
        if changed > most:
            best, most = mixed, changed
        if most == len(places):
            break
    return best
