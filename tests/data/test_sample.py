from __future__ import annotations

import hashlib
import itertools
import os
import re
import subprocess
import sys

import pytest

from recipe_exp.data.sample import SampleRecipe, sample_recipes, sample_recipes_with_truth
from recipe_exp.data.sample.dishes import DISHES
from recipe_exp.data.sample.grammar import Dish
from recipe_exp.data.sample.pantry import PANTRY
from recipe_exp.recipes import Recipe, clean_line, parse_ingredient, parse_recipe, render_markdown

# Of the first 200 recipes of seed 0. Whoever means to change the recipes changes it, and raises the version of the
# sample that is part of the data's fingerprint.
DIGEST = "89860b1ab12be69789b17392ebcde29f62f614e7a23b7e6b0572dddc98719953"

COUNT = 4_000


@pytest.fixture(scope="module")
def samples() -> list[SampleRecipe]:
    return list(itertools.islice(sample_recipes_with_truth(seed=0), COUNT))


@pytest.fixture(scope="module")
def recipes(samples: list[SampleRecipe]) -> list[Recipe]:
    return [sample.recipe for sample in samples]


def digest_of(seed: int) -> str:
    rendered = "\n\n".join(map(render_markdown, itertools.islice(sample_recipes(seed), 200)))
    return hashlib.sha256(rendered.encode()).hexdigest()


def test_a_seed_gives_the_same_recipes_on_every_machine() -> None:
    assert digest_of(0) == DIGEST


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_the_order_of_hashes_plays_no_part(hash_seed: str) -> None:
    program = (
        "import hashlib, itertools\n"
        "from recipe_exp.data.sample import sample_recipes\n"
        "from recipe_exp.recipes import render_markdown\n"
        "text = '\\n\\n'.join(map(render_markdown, itertools.islice(sample_recipes(0), 200)))\n"
        "print(hashlib.sha256(text.encode()).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    finished = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert finished.stdout.strip() == DIGEST


def test_seeds_differ() -> None:
    assert digest_of(1) != digest_of(0)


def test_the_stream_without_truth_is_the_same_stream(recipes: list[Recipe]) -> None:
    assert list(itertools.islice(sample_recipes(), 50)) == recipes[:50]


def test_no_recipe_comes_twice_and_titles_seldom(recipes: list[Recipe]) -> None:
    assert len({(recipe.title, recipe.ingredients) for recipe in recipes}) == COUNT
    assert len({recipe.title for recipe in recipes}) > 0.95 * COUNT


def test_recipes_come_without_a_score_and_name_their_source(recipes: list[Recipe]) -> None:
    assert {(recipe.quality_score, recipe.source) for recipe in recipes} == {(None, "sample")}


def test_recipes_have_three_to_eight_ingredients_and_three_to_six_steps(recipes: list[Recipe]) -> None:
    assert {len(recipe.ingredients) for recipe in recipes} == set(range(3, 9))
    assert {len(recipe.instructions) for recipe in recipes} == set(range(3, 7))


def test_lines_are_clean_and_survive_markdown(recipes: list[Recipe]) -> None:
    for recipe in recipes[:1_000]:
        lines = (recipe.title, *recipe.ingredients, *recipe.instructions)
        assert all(line == clean_line(line) and not set(line) & set("{}+_") for line in lines)
        parsed = parse_recipe(render_markdown(recipe))
        assert (parsed.title, parsed.ingredients, parsed.instructions) == lines_of(recipe)


def lines_of(recipe: Recipe) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    return recipe.title, recipe.ingredients, recipe.instructions


def test_every_ingredient_line_has_an_amount_and_its_name(samples: list[SampleRecipe]) -> None:
    for sample in samples[:1_000]:
        for line, name in zip(sample.recipe.ingredients, sample.names, strict=True):
            parsed = parse_ingredient(line)
            assert parsed.name == name
            assert parsed.quantity is not None
            assert parsed.quantity > 0


def test_the_truth_about_uses_is_what_the_steps_say(samples: list[SampleRecipe]) -> None:
    for sample in samples:
        named = tuple(
            tuple(index for index, name in enumerate(sample.names) if re.search(rf"\b{name}\b", step))
            for step in sample.recipe.instructions
        )
        assert sample.uses == named


def test_the_steps_use_every_ingredient(samples: list[SampleRecipe]) -> None:
    for sample in samples:
        assert {index for used in sample.uses for index in used} == set(range(len(sample.names)))


def test_two_foods_always_come_in_the_same_order(samples: list[SampleRecipe]) -> None:
    before = {pair for sample in samples for pair in itertools.combinations(sample.names, 2)}
    assert not {(second, first) for first, second in before} & before


def test_the_title_names_an_ingredient(samples: list[SampleRecipe]) -> None:
    for sample in samples:
        assert any(PANTRY[name].title in sample.recipe.title for name in sample.names)


def test_the_oven_is_hot_before_anything_goes_in_and_at_a_fitting_temperature(recipes: list[Recipe]) -> None:
    baked = [recipe for recipe in recipes if re.search(r"\b(bake|roast) for", steps_of(recipe), re.IGNORECASE)]
    assert baked
    for recipe in baked:
        heating = re.match(r"Heat the oven to (\d+) degrees", recipe.instructions[0])
        assert heating is not None
        assert 325 <= int(heating[1]) <= 450


def test_times_are_plausible(recipes: list[Recipe]) -> None:
    minutes = {int(number) for recipe in recipes for number in re.findall(r"(\d+) minutes", steps_of(recipe))}
    assert min(minutes) > 1  # "1 minutes" would be wrong English
    assert max(minutes) <= 90


def test_nothing_follows_serving(recipes: list[Recipe]) -> None:
    for recipe in recipes:
        assert not re.search(r"\bserve\b", " ".join(recipe.instructions[:-1]), re.IGNORECASE)


def steps_of(recipe: Recipe) -> str:
    return " ".join(recipe.instructions)


@pytest.mark.parametrize("dish", DISHES, ids=lambda dish: dish.titles[0])
def test_whatever_alternatives_are_drawn_every_part_of_a_dish_is_used(dish: Dish) -> None:
    for chosen in itertools.product(*dish.steps):
        keys = set(re.findall(r"[a-z]+", " ".join(re.findall(r"\{([^}]*)\}", " ".join(chosen)))))
        assert keys == dish.parts.keys() | dish.numbers.keys()


@pytest.mark.parametrize("dish", DISHES, ids=lambda dish: dish.titles[0])
def test_no_food_is_named_within_another_of_the_same_recipe(dish: Dish) -> None:
    for first, second in itertools.product(dish.parts.values(), repeat=2):
        if first is not second or first.maximum > 1:
            pairs = itertools.product(first.names, second.names)
            assert not [(a, b) for a, b in pairs if a != b and re.search(rf"\b{a}\b", b)]


def test_every_food_of_the_pantry_is_in_some_dish() -> None:
    assert PANTRY.keys() == {name for dish in DISHES for slot in dish.parts.values() for name in slot.names}
