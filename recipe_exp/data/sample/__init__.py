"""An endless, seeded stream of English recipes from a grammar, for tests, demonstrations and first runs.

Every recipe is sound by construction: its steps name exactly the ingredients it lists, and which step names which
is known, so the stream is ground truth for metrics as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from recipe_exp.data.sample.dishes import DISHES
from recipe_exp.data.sample.grammar import Dice, SampleRecipe, cook
from recipe_exp.recipes.recipe import Recipe

__all__ = ["SampleRecipe", "sample_recipes", "sample_recipes_with_truth"]


def sample_recipes(seed: int = 0) -> Iterator[Recipe]:
    """Yields recipes without end, no two of one seed with the same title and ingredients.

    The same seed yields the same recipes on every machine.
    """
    return (sample.recipe for sample in sample_recipes_with_truth(seed))


def sample_recipes_with_truth(seed: int = 0) -> Iterator[SampleRecipe]:
    """Yields the recipes of `sample_recipes`, each with what every step names."""
    dice = Dice(seed)
    seen: set[bytes] = set()
    while True:
        sample = cook(dice.choose(DISHES), dice)
        key = "\n".join([sample.recipe.title, *sample.recipe.ingredients])
        digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
        if digest not in seen:
            seen.add(digest)
            yield sample
