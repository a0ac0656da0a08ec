"""Every corruption changes what it is about, nothing else, and always in the same way."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe_exp.data.sample import sample_recipes
from recipe_exp.metrics import Fault
from recipe_exp.metrics.corruptions import CORRUPTIONS, SEVERITIES
from recipe_exp.recipes import Recipe, parse_ingredient, parse_recipe, render_markdown

POOL = list(islice(sample_recipes(seed=3), 60))
lines = st.lists(st.sampled_from(["2 cups flour", "1 egg", "salt", "3 tbsp oil", "1/2 cup (5 oz) milk"]), max_size=6)
steps = st.lists(
    st.sampled_from(["Mix flour and egg.", "Bake 30 minutes at 350 degrees.", "Stir", "Add the oil, then the salt."]),
    max_size=6,
)
recipes = st.sampled_from(POOL) | st.builds(
    Recipe, st.sampled_from(["Cake", "Pie", ""]), lines.map(tuple), steps.map(tuple)
)
PARTS = {
    Fault.SHUFFLED_STEPS: {"instructions"},
    Fault.REVERSED_STEPS: {"instructions"},
    Fault.FOREIGN_INGREDIENTS: {"ingredients"},
    Fault.SWAPPED_INGREDIENTS: {"ingredients"},
    Fault.DROPPED_INGREDIENTS: {"ingredients"},
    Fault.DROPPED_SECTION: {"title", "ingredients", "instructions"},
    Fault.REMOVED_QUANTITIES: {"ingredients"},
    Fault.PERMUTED_QUANTITIES: {"ingredients"},
    Fault.TRUNCATED: {"instructions"},
    Fault.LOOPING_STEP: {"instructions"},
    Fault.SWAPPED_TITLE: {"title"},
    Fault.DISTORTED_SETTINGS: {"instructions"},
    Fault.COPIED: {"instructions"},
    Fault.FORBIDDEN_INGREDIENT: {"ingredients"},
}


@pytest.mark.parametrize("fault", Fault)
@settings(max_examples=40, deadline=None)
@given(recipe=recipes, donor=recipes, seed=st.integers(0, 9), severity=st.sampled_from(SEVERITIES))
def test_a_corruption_is_pure_and_a_real_change_of_its_part(
    fault: Fault, recipe: Recipe, donor: Recipe, seed: int, severity: float
) -> None:
    corruption = CORRUPTIONS[fault]
    text = corruption(recipe, donor, seed=seed, severity=severity)
    assert text == corruption(recipe, donor, seed=seed, severity=severity)
    if text is None:
        return
    assert text != render_markdown(recipe)
    spoilt = parse_recipe(text)
    before = parse_recipe(render_markdown(recipe))
    changed = {
        name for name in ("title", "ingredients", "instructions") if getattr(spoilt, name) != getattr(before, name)
    }
    assert changed <= PARTS[fault]


@pytest.mark.parametrize("fault", Fault)
def test_every_corruption_works_on_most_recipes(fault: Fault) -> None:
    texts = [CORRUPTIONS[fault](recipe, donor, seed=1) for recipe, donor in zip(POOL, POOL[1:] + POOL[:1], strict=True)]
    assert sum(text is not None for text in texts) > len(POOL) / 2


def spoilt(fault: Fault, recipe: Recipe, severity: float | None = None) -> Recipe:
    text = CORRUPTIONS[fault](recipe, POOL[7], seed=4, severity=severity)
    assert text is not None
    return parse_recipe(text)


def test_shuffling_keeps_the_steps_and_needs_three(pancakes: Recipe) -> None:
    for recipe in POOL:
        if len(set(recipe.instructions)) >= 3:
            steps = spoilt(Fault.SHUFFLED_STEPS, recipe).instructions
            assert Counter(steps) == Counter(recipe.instructions)
            assert steps != recipe.instructions
    two = Recipe(pancakes.title, pancakes.ingredients, pancakes.instructions[:2])
    assert CORRUPTIONS[Fault.SHUFFLED_STEPS](two, pancakes, seed=0) is None
    assert spoilt(Fault.REVERSED_STEPS, two).instructions == two.instructions[::-1]


def test_severity_says_how_many_lines(pancakes: Recipe) -> None:
    recipe = Recipe("Stew", tuple(f"{n + 2} cups food{'abcdefghij'[n]}" for n in range(10)), pancakes.instructions)
    for severity, count in zip(SEVERITIES, (1, 3, 5, 10), strict=True):
        lines = spoilt(Fault.REMOVED_QUANTITIES, recipe, severity).ingredients
        assert sum(parse_ingredient(line).quantity is None for line in lines) == count
        swapped = spoilt(Fault.SWAPPED_INGREDIENTS, recipe, severity).ingredients
        assert len(set(recipe.ingredients) - set(swapped)) == min(count, len(POOL[7].ingredients))


def test_only_used_ingredients_are_dropped(pancakes: Recipe) -> None:
    recipe = Recipe("Pancakes", (*pancakes.ingredients, "1 cup walnuts"), pancakes.instructions)
    assert spoilt(Fault.DROPPED_INGREDIENTS, recipe, 1.0).ingredients == ("1 cup walnuts",)


def test_permuted_quantities_are_the_same_ones_elsewhere(pancakes: Recipe) -> None:
    lines = spoilt(Fault.PERMUTED_QUANTITIES, pancakes).ingredients
    amounts = [[(p.quantity, p.unit) for p in map(parse_ingredient, part)] for part in (pancakes.ingredients, lines)]
    assert Counter(amounts[0]) == Counter(amounts[1])
    assert amounts[0] != amounts[1]
    assert [parse_ingredient(line).name for line in lines] == ["flour", "eggs", "milk", "butter"]


def test_truncation_ends_inside_a_sentence(text: str, pancakes: Recipe) -> None:
    for seed in range(20):
        cut = CORRUPTIONS[Fault.TRUNCATED](pancakes, pancakes, seed=seed)
        assert cut is not None
        assert text.startswith(cut)
        assert cut[-1].isalpha()
        assert text[len(cut)] == " "


def test_settings_become_absurd() -> None:
    recipe = Recipe("Cake", ("flour",), ("Bake 30 minutes at 350 degrees F.", "Cool 1-2 hours."))
    assert spoilt(Fault.DISTORTED_SETTINGS, recipe).instructions == (
        "Bake 1500 minutes at 17500 degrees F.",
        "Cool 50-100 hours.",
    )
