from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe_exp.metrics import compute_metrics
from recipe_exp.metrics.bootstrap import Summed
from recipe_exp.metrics.example_scores import ExampleScores, example_id, example_scores

REFERENCES = [
    "**Soup**\n\n**Ingredients:**\n- 1 onion\n\n**Instructions:**\n1. Boil the onion.",
    "**Stew**\n\n**Ingredients:**\n- 2 leeks\n\n**Instructions:**\n1. Stew the leeks.",
    "**Cake**\n\n**Ingredients:**\n- 3 eggs\n\n**Instructions:**\n1. Bake the eggs.",
]
PREDICTIONS = [
    "**Soup**\n\n**Ingredients:**\n- 1 onion\n\n**Instructions:**\n1. Boil one onion well.",
    "**Stew**\n\n**Ingredients:**\n- 2 eggs\n\n**Instructions:**\n1. Boil the leeks.",
]
LOSSES = [(10.0, 5), (6.0, 3), (0.5, 2)]


def scores() -> ExampleScores:
    computed = compute_metrics(REFERENCES[:2], PREDICTIONS, prompt_ingredients=[["1 onion"], []])
    return example_scores(REFERENCES, LOSSES, {name: computed.statistics(name) for name in computed.resampled_names})


def summed(found: ExampleScores, metric: str) -> Summed:
    result = found.summed(metric, range(len(found.examples_of(metric))))
    assert result is not None
    return result


def test_the_metrics_of_all_examples_follow_from_those_of_each() -> None:
    expected = compute_metrics(
        REFERENCES[:2], PREDICTIONS, prompt_ingredients=[["1 onion"], []], loss=math.fsum([10, 6, 0.5]) / 10
    ).to_dict()
    found = scores()
    for name in ("loss", "perplexity", "bleu", "rouge1", "rougeL", "well_formed", "prompt_adherence"):
        assert summed(found, name).value() == pytest.approx(expected[name], rel=1e-7), name
    assert found.summed("speed", [0]) is None


def test_some_examples_can_be_chosen_in_any_order() -> None:
    chosen = scores().summed("loss", [2, 0])
    assert chosen is not None
    assert chosen.value() == pytest.approx(10.5 / 7)


def test_it_comes_back_from_json() -> None:
    found = scores()
    assert found.metrics["prompt_adherence"][1] == (0, 0)
    text = json.dumps(found.to_data(), allow_nan=False)
    assert ExampleScores.from_data(json.loads(text)).to_data() == found.to_data()


@given(st.lists(st.tuples(st.floats(), st.integers(1, 99)), max_size=3))
def test_losses_of_every_kind_come_back(losses: list[tuple[float, int]]) -> None:
    found = example_scores(REFERENCES[: len(losses)], losses, {})
    again = ExampleScores.from_data(json.loads(json.dumps(found.to_data(), allow_nan=False)))
    assert again.ids == found.ids
    assert again.target_tokens == found.target_tokens
    for before, after in zip(found.loss_sums, again.loss_sums, strict=True):
        assert after == pytest.approx(before, rel=1e-7) if math.isfinite(before) else math.isnan(after)


@pytest.mark.parametrize("data", [{}, {"ids": "", "loss_sums": 1, "target_tokens": [], "metrics": {}}])
def test_anything_else_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="no scores"):
        ExampleScores.from_data(data)


def test_an_example_is_known_by_its_reference() -> None:
    assert scores().ids == tuple(map(example_id, REFERENCES))
    assert len(set(scores().ids)) == 3
    assert {len(one) for one in scores().ids} == {8}
