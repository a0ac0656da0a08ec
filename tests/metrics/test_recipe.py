from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe_exp.metrics import (
    completeness,
    format_correctness,
    ingredient_coherence,
    ingredient_coverage,
    ingredient_precision,
    instruction_quality,
    is_truncated,
    prompt_adherence,
    well_formed,
)
from recipe_exp.recipes import Recipe, read_recipe, render_markdown

PANCAKES = Recipe(
    "Pancakes",
    ("1 cup flour", "2 eggs", "1 cup milk", "1 tbsp butter"),
    ("Whisk the flour, eggs and milk.", "Melt the butter in a pan.", "Fry the pancakes until golden."),
)
TEXT = render_markdown(PANCAKES)

Metric = Callable[[str], float]
METRICS: list[Metric] = [
    ingredient_coherence,
    ingredient_coverage,
    ingredient_precision,
    instruction_quality,
    completeness,
    format_correctness,
    well_formed,
]

lines = st.lists(
    st.sampled_from(["1 cup flour", "2 eggs", "Mix the flour.", "Add milk", "salt", "1 lemon, juiced", "Stir."]),
    max_size=5,
).map(tuple)
recipes = st.builds(Recipe, st.sampled_from(["Cake", "", "Lemon Pie"]), lines, lines)


def changed(**parts: object) -> str:
    return render_markdown(replace(PANCAKES, **parts))  # type: ignore[arg-type]


@pytest.mark.parametrize("metric", METRICS)
def test_a_good_recipe_scores_1(metric: Metric) -> None:
    assert metric(TEXT) == 1.0


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("text", ["", "   \n\n", "hello there", "****", "-\n-\n1.\n2.", "**Ingredients:**\n-", "塩"])
def test_vacuous_text_scores_0(metric: Metric, text: str) -> None:
    assert metric(text) == 0.0


@pytest.mark.parametrize("metric", METRICS)
@given(st.text() | st.text(st.sampled_from("*#-1. \nIngredientsegg:"), max_size=80) | recipes.map(render_markdown))
def test_every_score_lies_in_0_to_1(metric: Metric, text: str) -> None:
    assert 0.0 <= metric(text) <= 1.0


@pytest.mark.parametrize("metric", METRICS)
def test_text_and_its_reading_score_alike(metric: Metric) -> None:
    assert metric(TEXT) == metric(read_recipe(TEXT))  # type: ignore[arg-type]


@given(recipes)
def test_leaving_out_the_steps_never_raises_coherence(recipe: Recipe) -> None:
    without = ingredient_coherence(render_markdown(replace(recipe, instructions=())))
    assert without <= ingredient_coherence(render_markdown(recipe))
    assert without == 0.0


def test_coverage_counts_listed_ingredients_that_are_used() -> None:
    assert ingredient_coverage(changed(ingredients=(*PANCAKES.ingredients, "1 cup walnuts"))) == 4 / 5
    assert ingredient_coverage(changed(instructions=("Whisk the flour.",))) == 1 / 4


def test_precision_counts_used_foods_that_are_listed() -> None:
    assert ingredient_precision(changed(ingredients=PANCAKES.ingredients[:3])) == 3 / 4
    assert ingredient_precision(changed(instructions=("Mix.", "Fry the tofu with honey and eggs."))) == 1 / 3


def test_coherence_is_the_harmonic_mean() -> None:
    text = changed(ingredients=(*PANCAKES.ingredients[:3], "1 cup walnuts"))
    coverage, precision = ingredient_coverage(text), ingredient_precision(text)
    assert (coverage, precision) == (3 / 4, 3 / 4)
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
def test_what_counts_as_use(ingredients: tuple[str, ...], step: str, coverage: float) -> None:
    assert ingredient_coverage(changed(ingredients=ingredients, instructions=(step,))) == coverage


@pytest.mark.parametrize(
    ("old", "new", "lost_marks"),
    [
        ("2. Melt", "3. Melt", 1),
        ("Melt the butter in a pan.", "The butter in a pan.", 1),
        ("Melt the butter in a pan.", "Melt", 1),
        ("Melt the butter in a pan.", "Melt " + "and so on " * 60, 1),
        ("Melt the butter in a pan.", "Whisk the flour, eggs and milk!", 1),
        ("2. Melt the butter in a pan.", "* Nothing", 3),
    ],
)
def test_instruction_quality_takes_a_mark_for_each_fault(old: str, new: str, lost_marks: int) -> None:
    assert instruction_quality(TEXT.replace(old, new)) == pytest.approx(1 - lost_marks / 12)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"title": "!!"}, 2 / 3),
        ({"title": "word " * 21}, 2 / 3),
        ({"ingredients": ()}, 2 / 3),
        ({"ingredients": ("salt",)}, (1 + 1 / 3 + 1) / 3),
        ({"ingredients": ("salt", "Salt", "salt!")}, (1 + 1 / 3 + 1) / 3),
        ({"instructions": ("Stir.", "Bake.")}, (1 + 1 + 2 / 3) / 3),
        ({"instructions": tuple(f"Stir {i} times." for i in range(60))}, (1 + 1 + 1 / 2) / 3),
    ],
)
def test_completeness(parts: dict[str, object], expected: float) -> None:
    assert completeness(changed(**parts)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("**Pancakes**", "# Pancakes"),
        ("**Pancakes**\n\n", ""),
        ("**Pancakes**\n\n", "**Pancakes**\n"),
        ("**Ingredients:**", "Ingredients:"),
        ("**Ingredients:**\n", ""),
        ("- 2 eggs", "* 2 eggs"),
        ("**Instructions:**", "**Directions:**"),
        ("2. Melt", "2) Melt"),
        ("2. Melt", "4. Melt"),
        ("Fry the pancakes until golden.", "Fry the pancakes un"),
        ("3. Fry the pancakes until golden.", "3."),
        ("golden.", "golden.\n\nEnjoy this recipe"),
    ],
)
def test_format_correctness_sees_every_departure(old: str, new: str) -> None:
    assert old in TEXT
    assert 0.4 < format_correctness(TEXT.replace(old, new)) < 1.0


def test_format_correctness_of_swapped_sections_loses_the_order() -> None:
    title, *sections = TEXT.split("\n\n")
    assert format_correctness("\n\n".join([title, *reversed(sections)])) < 1.0


@given(recipes)
def test_the_canonical_form_of_a_whole_recipe_is_correct(recipe: Recipe) -> None:
    whole = recipe.title and recipe.ingredients and recipe.instructions
    text = render_markdown(recipe)
    assert (format_correctness(text) == 1.0) == bool(whole and not is_truncated(text))


def test_truncation_is_judged_by_the_recipes_own_punctuation() -> None:
    assert not is_truncated(TEXT)
    assert is_truncated(TEXT[:-3])
    assert is_truncated(TEXT[: TEXT.index("3. ") + 2])
    assert not is_truncated(changed(instructions=("Stir", "Bake", "Serve")))


def test_well_formed_needs_title_ingredients_and_numbered_steps() -> None:
    assert well_formed(changed(ingredients=PANCAKES.ingredients[:3])) == 1.0
    assert well_formed(changed(ingredients=PANCAKES.ingredients[:2])) == 0.0
    assert well_formed(changed(instructions=PANCAKES.instructions[:2])) == 0.0
    assert well_formed(changed(instructions=("Stir.",) * 3)) == 0.0
    assert well_formed(TEXT.replace("**Pancakes**\n\n", "")) == 0.0
    assert well_formed(TEXT.replace("2. ", "- ")) == 0.0


@pytest.mark.parametrize(
    ("listed", "asked", "found"),
    [
        ("2 eggs, beaten", "egg", True),
        ("2 boneless chicken breasts", "chicken", True),
        ("1 cup chicken stock", "chicken", False),
        ("1 tbsp olive oil", "olive oil", True),
        ("1 tbsp oil", "olive oil", False),
        ("1 tbsp extra-virgin olive oil", "2 cups olive oil", True),
        ("1 cup coconut milk", "milk", True),
        ("1 cup milk", "coconut milk", False),
        ("100 g butter or margarine", "butter", True),
        ("3 tomatoes", "tomato", True),
        ("1 eggplant", "egg", False),
        ("salt", "", False),
    ],
)
def test_prompt_adherence_matches_head_words(listed: str, asked: str, found: bool) -> None:
    assert prompt_adherence(changed(ingredients=(listed,)), [asked]) == float(found)


def test_prompt_adherence_is_a_share() -> None:
    assert prompt_adherence(TEXT, ["flour", "eggs", "tofu", "honey"]) == 1 / 2
    assert prompt_adherence(TEXT, []) == 0.0
    assert prompt_adherence("", ["flour"]) == 0.0


def test_an_ingredient_that_only_the_steps_name_does_not_adhere() -> None:
    assert prompt_adherence(changed(instructions=("Add the honey.",)), ["honey"]) == 0.0
