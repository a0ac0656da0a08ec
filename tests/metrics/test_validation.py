from __future__ import annotations

import json
from itertools import islice

import pytest

from recipe_exp.data.sample import sample_recipes
from recipe_exp.metrics import RECIPE_METRICS, Fault, Knowledge
from recipe_exp.metrics.validation import Validation, prompt_of, validate_metrics
from recipe_exp.recipes import Recipe


@pytest.fixture(scope="module")
def validation(knowledge: Knowledge) -> Validation:
    genuine = list(islice(sample_recipes(seed=6), 24))
    return validate_metrics(genuine, knowledge, list(islice(sample_recipes(seed=1), 24)), seed=3)


def test_every_pair_of_fault_and_metric_is_there(validation: Validation) -> None:
    names = {metric.name for metric in RECIPE_METRICS}
    assert list(validation.matrix) == list(Fault)
    for fault, row in validation.matrix.items():
        assert row.keys() == names
        for name, cell in row.items():
            assert 0 <= cell.low <= cell.auc <= cell.high <= 1, (fault, name)
            assert 0 < cell.n <= 24


def test_what_is_declared_is_in_the_matrix(validation: Validation) -> None:
    cell = validation.matrix["shuffled_steps"]["step_order"]
    assert cell.intended
    assert cell.auc > 0.8
    for metric in RECIPE_METRICS:
        for fault in Fault:
            cell = validation.matrix[fault][metric.name]
            assert (cell.intended, cell.ignored) == (fault in metric.sees, fault in metric.ignores)


def test_it_converts_to_json(validation: Validation) -> None:
    content = json.loads(json.dumps(validation.to_dict(), allow_nan=False))
    entry = content["swapped_ingredients"]["ingredient_coherence"]
    assert {"auc", "low", "high", "n", "intended"} <= entry.keys()
    assert len(entry["severities"]) == 4
    assert "severities" not in content["swapped_ingredients"]["title_fit"]
    assert "severities" not in content["swapped_title"]["title_fit"]


def test_the_same_seed_gives_the_same_matrix(validation: Validation, knowledge: Knowledge) -> None:
    genuine = list(islice(sample_recipes(seed=6), 24))
    again = validate_metrics(genuine, knowledge, list(islice(sample_recipes(seed=1), 24)), seed=3)
    assert again == validation


def test_a_prompt_states_what_the_recipe_keeps_to(pancakes: Recipe) -> None:
    prompt, asked = prompt_of(pancakes)
    assert prompt.startswith("Write a vegetarian nut-free recipe for Pancakes using: 1 cup flour, 2 eggs")
    assert asked == pancakes.ingredients


def test_too_few_recipes_are_refused(pancakes: Recipe, knowledge: Knowledge) -> None:
    with pytest.raises(ValueError, match="at least two recipes"):
        validate_metrics([pancakes], knowledge, [pancakes])
