"""One good recipe and its variants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import pytest

from recipe_exp.data.sample import sample_recipes
from recipe_exp.metrics import Knowledge
from recipe_exp.recipes import Recipe, render_markdown

PANCAKES = Recipe(
    "Pancakes",
    ("1 cup flour", "2 eggs", "1 cup milk", "1 tbsp butter"),
    ("Whisk the flour, eggs and milk.", "Melt the butter in a pan.", "Fry the pancakes until golden."),
)


@pytest.fixture(scope="session")
def pancakes() -> Recipe:
    return PANCAKES


@pytest.fixture(scope="session")
def text() -> str:
    return render_markdown(PANCAKES)


@pytest.fixture(scope="session")
def changed() -> Callable[..., str]:
    """Returns the text of the recipe with some of its parts replaced."""
    return lambda **parts: render_markdown(replace(PANCAKES, **parts))


@pytest.fixture(scope="session")
def knowledge() -> Knowledge:
    """What 400 generated recipes teach."""
    return Knowledge.fit(islice(sample_recipes(seed=1), 400))
