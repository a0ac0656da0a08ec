"""Recipes of 120 to 150 words that are made up: any number of them, alike only where one is a copy of another."""

from __future__ import annotations

import random

SHARE_OF_COPIES = 0.1

_SYLLABLES = [a + b for a in "bcdfglmnprstv" for b in ("a", "e", "i", "o", "u", "an", "or", "el")]
_FOODS = [a + b + c for a, b, c in zip(_SYLLABLES * 9, _SYLLABLES[7:] * 9, _SYLLABLES[31:] * 9, strict=False)]
_VERBS = [
    "stir",
    "mix",
    "fold",
    "bake",
    "fry",
    "boil",
    "simmer",
    "chop",
    "slice",
    "whisk",
    "beat",
    "knead",
    "season",
    "toast",
    "roast",
    "drain",
]
_VESSELS = ["bowl", "pan", "pot", "dish", "tray", "skillet", "oven", "saucepan"]
_STATES = ["golden", "soft", "tender", "thick", "smooth", "brown", "crisp", "warm", "firm", "cold"]
_UNITS = ["cups", "cup", "tablespoons", "teaspoons", "grams", "pounds", "ounces", "pinch"]


def recipe(seed: int, row: int) -> tuple[list[str], int | None]:
    """Returns the lines of a recipe, and the row it is a copy of."""
    dice = random.Random(seed * 1_000_003 + row)
    if row and dice.random() < SHARE_OF_COPIES:
        original = dice.randrange(row)
        return edited(recipe(seed, original)[0], dice), original
    foods = [dice.choice(_FOODS) for _ in range(dice.randint(8, 10))]
    lines = [f"{dice.choice(foods)} {dice.choice(_FOODS)} {dice.choice(_VESSELS)}"]
    lines += [f"- {dice.randint(1, 9)} {dice.choice(_UNITS)} {dice.choice(_FOODS)} {food}" for food in foods]
    for _ in range(dice.randint(6, 7)):
        verb, other, vessel = dice.choice(_VERBS), dice.choice(_VERBS), dice.choice(_VESSELS)
        step = f"{verb} the {dice.choice(foods)} and {dice.choice(_FOODS)} in a {vessel}, then {other} for "
        lines.append(step + f"{dice.randint(2, 60)} minutes until {dice.choice(_STATES)}.")
    return lines, None


def edited(lines: list[str], dice: random.Random) -> list[str]:
    """Returns the lines with up to eight words replaced, and at times in another order or in capitals."""
    lines = list(lines)
    for _ in range(dice.randrange(9)):
        place = dice.randrange(len(lines))
        words = lines[place].split()
        words[dice.randrange(len(words))] = dice.choice(_FOODS)
        lines[place] = " ".join(words)
    if dice.random() < 0.3:
        places = [place for place, line in enumerate(lines) if line.startswith("- ")]
        one, other = dice.sample(places, 2) if len(places) > 1 else (0, 0)
        lines[one], lines[other] = lines[other], lines[one]
    return [line.upper() for line in lines] if dice.random() < 0.2 else lines
