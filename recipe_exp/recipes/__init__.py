"""The recipe itself: its type, markdown in and out, ingredient lines and kitchen units."""

from __future__ import annotations

from recipe_exp.recipes.ingredient_line import Ingredient, parse_ingredient, split_measure
from recipe_exp.recipes.markdown import (
    INGREDIENTS_HEADING,
    INSTRUCTIONS_HEADING,
    Line,
    LineKind,
    ParsedRecipe,
    parse_recipe,
    read_recipe,
    render_markdown,
)
from recipe_exp.recipes.quality import QualityChecks, quality_checks
from recipe_exp.recipes.recipe import Recipe
from recipe_exp.recipes.text import ascii_fractions, clean_line, normalise_title
from recipe_exp.recipes.units import canonical_unit
from recipe_exp.recipes.words import singular

__all__ = [
    "INGREDIENTS_HEADING",
    "INSTRUCTIONS_HEADING",
    "Ingredient",
    "Line",
    "LineKind",
    "ParsedRecipe",
    "QualityChecks",
    "Recipe",
    "ascii_fractions",
    "canonical_unit",
    "clean_line",
    "normalise_title",
    "parse_ingredient",
    "parse_recipe",
    "quality_checks",
    "read_recipe",
    "render_markdown",
    "singular",
    "split_measure",
]
