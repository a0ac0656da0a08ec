"""A generated text read once for all recipe metrics, with what it was asked for and what is known about recipes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from recipe_exp.recipes import Ingredient, ParsedRecipe, Recipe, parse_ingredient, read_recipe, singular

if TYPE_CHECKING:
    from recipe_exp.metrics.knowledge import Knowledge

WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


@dataclass(frozen=True)
class Reading:
    """One generated text and its parts, each worked out when first asked for.

    Attributes:
        text: the text as it was generated.
        prompt: what the model was asked, empty if unknown.
        prompt_ingredients: the ingredients that the prompt asked for.
        knowledge: what was learnt from training recipes, or None.
    """

    text: str
    prompt: str = ""
    prompt_ingredients: tuple[str, ...] = ()
    knowledge: Knowledge | None = field(default=None, repr=False)

    @cached_property
    def parsed(self) -> ParsedRecipe:
        """The recipe with the markup of every line."""
        return read_recipe(self.text)

    @property
    def recipe(self) -> Recipe:
        """The recipe; missing parts are empty."""
        return self.parsed.recipe

    @cached_property
    def instructions(self) -> str:
        """The steps alone, one a line, without their numbers."""
        return "\n".join(self.recipe.instructions)

    @cached_property
    def ingredients(self) -> tuple[Ingredient, ...]:
        """The parts of each ingredient line."""
        return tuple(map(parsed_line, self.recipe.ingredients))

    @cached_property
    def step_words(self) -> tuple[tuple[str, ...], ...]:
        """The words of each step: see `words_of`."""
        return tuple(map(words_of, self.recipe.instructions))

    @cached_property
    def words_in_steps(self) -> frozenset[str]:
        """The different words of all steps."""
        return frozenset(word for words in self.step_words for word in words)


@lru_cache(maxsize=65536)
def parsed_line(line: str) -> Ingredient:
    """Return the parts of an ingredient line; many recipes have the same line, and every metric asks again."""
    return parse_ingredient(line)


@lru_cache(maxsize=65536)
def words_of(text: str) -> tuple[str, ...]:
    """Return the words of a text in lower case and singular, without numbers."""
    return tuple(singular(word.casefold().replace("’", "'")) for word in WORD.findall(text))
