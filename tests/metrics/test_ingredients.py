from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe_exp.metrics.ingredients import ingredient_coherence, ingredient_coverage, ingredient_precision
from recipe_exp.recipes import Recipe, render_markdown

Changed = Callable[..., str]
lines = st.lists(st.sampled_from(["1 cup flour", "2 eggs", "Mix the flour.", "Add milk", "salt"]), max_size=5)
recipes = st.builds(Recipe, st.just("Cake"), lines.map(tuple), lines.map(tuple))


@pytest.mark.parametrize("metric", [ingredient_coverage, ingredient_precision, ingredient_coherence])
def test_a_good_recipe_scores_1(metric: Callable[[str], float], text: str) -> None:
    assert metric(text) == 1.0


@given(recipes)
def test_leaving_out_the_steps_never_raises_coherence(recipe: Recipe) -> None:
    assert ingredient_coherence(render_markdown(replace(recipe, instructions=()))) == 0.0


def test_coverage_counts_listed_ingredients_that_are_used(changed: Changed, pancakes: Recipe) -> None:
    assert ingredient_coverage(changed(ingredients=(*pancakes.ingredients, "1 cup walnuts"))) == 4 / 5
    assert ingredient_coverage(changed(instructions=("Whisk the flour.",))) == 1 / 4


def test_precision_counts_used_foods_that_are_listed(changed: Changed, pancakes: Recipe) -> None:
    assert ingredient_precision(changed(ingredients=pancakes.ingredients[:3])) == 3 / 4
    assert ingredient_precision(changed(instructions=("Mix.", "Fry the tofu with honey and eggs."))) == 1 / 3


def test_coherence_is_the_harmonic_mean(changed: Changed, pancakes: Recipe) -> None:
    text = changed(ingredients=(*pancakes.ingredients[:3], "1 cup walnuts"))
    assert (ingredient_coverage(text), ingredient_precision(text)) == (3 / 4, 3 / 4)
    text = changed(instructions=("Whisk the flour.",))
    assert ingredient_coherence(text) == pytest.approx(2 * (1 / 4) * 1 / (1 / 4 + 1))


@pytest.mark.parametrize(
    ("ingredients", "step", "coverage"),
    [
        (("1 lemon juice", "1 orange juice"), "Add the orange juice.", 1 / 2),
        (("2 boneless chicken breasts",), "Fry the chicken.", 1.0),
        (("1 cup grated mozzarella",), "Top with the cheese.", 1.0),
        (("3 ripe tomatoes",), "Chop the tomato.", 1.0),
        (("1 cup black beans", "1 tsp black pepper"), "Season with pepper.", 1 / 2),
        (("1 tsp salt", "2 tsp salt"), "Add salt.", 1.0),
        (("2 cups flour",), "Flower the table.", 0.0),
    ],
)
def test_what_counts_as_use(changed: Changed, ingredients: tuple[str, ...], step: str, coverage: float) -> None:
    assert ingredient_coverage(changed(ingredients=ingredients, instructions=(step,))) == coverage
