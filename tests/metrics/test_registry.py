"""What holds for every metric alike."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe_exp.config.evaluation import LOWER_IS_BETTER, EvaluationMetric
from recipe_exp.metrics import METRICS, RECIPE_METRICS, Fault, Knowledge, Reading, RecipeMetric, example_statistics
from recipe_exp.recipes import Recipe, render_markdown

PROMPT = "Write a vegan recipe without nuts using: 1 cup flour, 2 eggs"
ASKED = ("1 cup flour", "2 eggs")

lines = st.lists(
    st.sampled_from(["1 cup flour", "2 eggs", "Mix the flour.", "Add milk", "salt", "1 lemon, juiced", "Stir."]),
    max_size=5,
).map(tuple)
recipes = st.builds(Recipe, st.sampled_from(["Cake", "", "Lemon Pie"]), lines, lines)
texts = st.text() | st.text(st.sampled_from("*#-1. \nIngredientsegg:"), max_size=80) | recipes.map(render_markdown)


def test_every_metric_says_what_it_is() -> None:
    for name, metric in METRICS.items():
        assert metric.name == name
        assert len(metric.definition) > 40, name
        assert metric.low < metric.high
        assert metric.sees.isdisjoint(metric.ignores), name


def test_every_metric_and_fault_is_documented() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    whole = [name for name in METRICS if not name.endswith("_instructions")]
    assert [name for name in [*whole, *Fault] if f"`{name}`" not in page] == []


def test_every_fault_is_one_that_some_metric_is_meant_to_see() -> None:
    assert {fault for metric in RECIPE_METRICS for fault in metric.sees} == set(Fault)


def test_checkpoints_are_ranked_by_metrics_that_there_are() -> None:
    names = {name.removeprefix("eval/") for name in get_args(EvaluationMetric)}
    assert names <= set(METRICS)
    lower = {f"eval/{name}" for name in names if METRICS[name].direction == "lower"}
    assert lower == LOWER_IS_BETTER
    assert all(METRICS[name].direction != "nearest to 1" for name in names)


@pytest.mark.parametrize("metric", RECIPE_METRICS, ids=lambda metric: metric.name)
@pytest.mark.parametrize("text", ["", "   \n\n", "hello there", "****", "-\n-\n1.\n2.", "**Ingredients:**\n-", "塩"])
def test_vacuous_text_scores_0(metric: RecipeMetric, text: str, knowledge: Knowledge) -> None:
    assert metric(Reading(text, PROMPT, ASKED, knowledge)) == 0.0


@settings(max_examples=60, deadline=None)
@given(text=texts)
def test_every_score_lies_in_its_range(text: str, knowledge: Knowledge) -> None:
    statistics = example_statistics(Reading(text, PROMPT, ASKED, knowledge), "a b c d\n1. e")
    assert {metric.name for metric in RECIPE_METRICS} <= statistics.sums.keys()
    for name, sums in statistics.sums.items():
        value = METRICS[name].value(sums)
        assert METRICS[name].low <= value <= METRICS[name].high + 1e-9 or math.isnan(value), name


def test_what_does_not_apply_has_no_score(pancakes: Recipe) -> None:
    text = render_markdown(replace(pancakes, title="Pancakes"))
    with_prompt = example_statistics(Reading(text, PROMPT, ASKED)).sums
    assert "prompt_adherence" in with_prompt
    assert "prompt_adherence" not in example_statistics(Reading(text)).sums
    assert "bleu" not in with_prompt
