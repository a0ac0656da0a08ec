"""An evaluation of made-up recipes, some of them spoilt in ways that a reader has to see."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest

import recipe_exp
from recipe_exp.metrics import MetricResult, accumulate
from recipe_exp.metrics.predictions import Prediction
from recipe_exp.recipes import Recipe, render_markdown
from recipe_exp.reports.evaluation import EvaluationReport

HOSTILE = '2 cups fennel <script>alert(1)</script> & "quoted" \' ]]>'


def scored(predictions: list[Prediction], loss: float | None = None) -> MetricResult:
    return accumulate(
        [each.reference for each in predictions],
        [each.generated for each in predictions],
        prompts=[each.prompt for each in predictions],
        prompt_ingredients=[each.prompt_ingredients or () for each in predictions],
    ).compute(loss)


def predict(recipe: Recipe, number: int) -> Prediction:
    ingredients, steps = list(recipe.ingredients), list(recipe.instructions)
    if number % 4 == 1:
        ingredients.append(HOSTILE)
    if number % 4 == 2:
        steps.append(steps[0])
    text = render_markdown(Recipe(recipe.title, tuple(ingredients), tuple(steps)))
    return Prediction(
        prompt=f"Write a recipe for {recipe.title} <b>now</b>.",
        reference=render_markdown(recipe),
        generated=text[: len(text) * 3 // 4] if number % 4 == 3 else text,
        prompt_ingredients=recipe.ingredients if number % 2 else (),
        source=("grandma", "<i>web</i>")[number % 2],
        title=recipe.title,
    )


@pytest.fixture(scope="session")
def report() -> EvaluationReport:
    recipes = list(islice(recipe_exp.sample_recipes(seed=5), 24))
    predictions = [predict(recipe, number) for number, recipe in enumerate(recipes)]
    copied = [replace(each, generated=each.prompt) for each in predictions]
    perfect = [replace(each, generated=each.reference) for each in predictions]
    return EvaluationReport(
        name="rate <script>alert(2)</script>",
        facts={"model": "t5 & co", "data": "</table><script>alert(3)</script>"},
        predictions=predictions,
        result=scored(predictions, 0.5),
        anchors={"the recipe of the nearest title": scored(perfect), "the prompt copied": scored(copied)},
        others={"itself <x>": scored(predictions), "copied": scored(copied)},
        history={
            "train/loss": [(step, 4 / step) for step in range(1, 2000)],
            "eval/loss": [(1000, 1.5), (2000, 1.25)],
            "eval/bleu": [(1000, 5.0), (2000, 9.0)],
        },
        step=2000,
    )
