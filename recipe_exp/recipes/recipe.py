"""The record that everything in this package is about."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Recipe:
    """One recipe.

    Attributes:
        title: the dish's name, without markup.
        ingredients: one line each, without bullets, such as `1 1/2 cups flour`.
        instructions: one step each, in order, without numbers.
        quality_score: a score in [0, 1] that came with the record, or None.
        source: where the record came from, or None.
    """

    title: str
    ingredients: tuple[str, ...]
    instructions: tuple[str, ...]
    quality_score: float | None = None
    source: str | None = None
