from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest

from recipe_exp.data.sample import sample_recipes
from recipe_exp.metrics import Knowledge, Reading
from recipe_exp.metrics.step_order import StepOrder, pair_signs, step_features, step_order
from recipe_exp.recipes import Recipe, render_markdown


def score(recipe: Recipe, knowledge: Knowledge) -> float:
    found = step_order(Reading(render_markdown(recipe), knowledge=knowledge))
    assert found is not None
    return found


def test_what_comes_first_in_training_comes_first(knowledge: Knowledge) -> None:
    recipes = list(islice(sample_recipes(seed=9), 40))
    wins = [
        score(recipe, knowledge) > score(replace(recipe, instructions=recipe.instructions[::-1]), knowledge)
        for recipe in recipes
    ]
    assert sum(wins) >= 38


def test_the_score_of_the_reverse_is_the_rest_to_one(knowledge: Knowledge) -> None:
    recipe = next(sample_recipes(seed=4))
    backwards = replace(recipe, instructions=recipe.instructions[::-1])
    assert score(recipe, knowledge) + score(backwards, knowledge) == pytest.approx(1.0)


def test_sentences_of_a_single_step_are_its_steps(knowledge: Knowledge) -> None:
    recipe = next(sample_recipes(seed=4))
    paragraph = replace(recipe, instructions=(" ".join(recipe.instructions),))
    assert score(paragraph, knowledge) == pytest.approx(score(recipe, knowledge))
    assert score(replace(recipe, instructions=("Serve.",)), knowledge) == 0.5


def test_without_knowledge_it_says_nothing(text: str) -> None:
    assert step_order(text) is None


def test_signs_speak_for_the_right_order() -> None:
    first, second = step_features(["flour", "milk", "salt"], ["Make a dough of flour.", "Salt the dough."])
    assert all(sign > 0 for sign in pair_signs(first, second)[:4])
    assert pair_signs(first, second) == tuple(-sign for sign in pair_signs(second, first))
    some, rest = step_features(["flour"], ["Add half of the flour.", "Add the remaining flour."])
    assert pair_signs(some, rest)[4] == 1.0


def test_recipes_of_one_step_teach_no_order() -> None:
    order = StepOrder.fit([Recipe("Tea", ("tea",), ("Brew",))])
    assert order.score(step_features([], ["Boil water.", "Drink."])) == 0.5
