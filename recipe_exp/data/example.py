"""What a model learns from: one text in, one text out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Example:
    """One example, made from a recipe by a prompt template or taken from an input/output pair.

    Attributes:
        source_text: the prompt.
        target_text: the recipe in markdown.
        title: the recipe's title; for a pair without a recognisable one, its prompt.
        prompt_ingredients: the ingredient lines that the prompt names, in its order; empty if it names none.
    """

    source_text: str
    target_text: str
    title: str
    prompt_ingredients: tuple[str, ...]
