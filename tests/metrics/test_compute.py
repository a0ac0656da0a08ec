from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe_exp.metrics import (
    MetricAccumulator,
    accumulate,
    bleu,
    completeness,
    compute_metrics,
    format_correctness,
    ingredient_coherence,
    instruction_quality,
    prompt_adherence,
    rouge,
    well_formed,
)
from recipe_exp.recipes import Recipe, render_markdown

RECIPES = [
    Recipe("Pancakes", ("1 cup flour", "2 eggs", "1 cup milk"), ("Mix flour and eggs.", "Add milk.", "Fry.")),
    Recipe("Lemonade", ("2 lemons", "1/2 cup sugar"), ("Juice the lemons.", "Stir in the sugar.")),
    Recipe("Toast", ("1 slice bread",), ("Toast it.",)),
]
REFERENCES = [render_markdown(recipe) for recipe in RECIPES]
PREDICTIONS = [REFERENCES[0], "**Lemonade**\n\n**Ingredients:**\n- 2 lemons\n\n**Instructions:**\n1. Squeeze.", ""]
ASKED = [["flour", "tofu"], [], ["bread"]]
NAMES = [
    *("loss", "perplexity", "bleu", "rouge1", "rouge2", "rougeL", "ingredient_coherence", "instruction_quality"),
    *("completeness", "format_correctness", "well_formed", "prompt_adherence"),
]


def test_every_metric_has_its_definition() -> None:
    metrics = compute_metrics(REFERENCES, PREDICTIONS, prompt_ingredients=ASKED, loss=math.log(7))
    expected = {
        "loss": math.log(7),
        "perplexity": 7.0,
        "bleu": bleu(REFERENCES, PREDICTIONS),
        **rouge(REFERENCES, PREDICTIONS),
        "ingredient_coherence": sum(map(ingredient_coherence, PREDICTIONS)) / 3,
        "instruction_quality": sum(map(instruction_quality, PREDICTIONS)) / 3,
        "completeness": sum(map(completeness, PREDICTIONS)) / 3,
        "format_correctness": sum(map(format_correctness, PREDICTIONS)) / 3,
        "well_formed": sum(map(well_formed, PREDICTIONS)) / 3,
        "prompt_adherence": 0.25,
    }
    assert metrics.to_dict() == pytest.approx(expected)
    assert list(metrics.to_dict()) == NAMES
    assert metrics["bleu"] == expected["bleu"]


def test_only_what_can_be_computed_is_there() -> None:
    assert list(compute_metrics(REFERENCES, PREDICTIONS).to_dict()) == NAMES[2:-1]
    nothing_asked = compute_metrics(REFERENCES, PREDICTIONS, prompt_ingredients=[[], [], []])
    assert "prompt_adherence" not in nothing_asked.to_dict()


def test_each_recipe_keeps_its_own_scores() -> None:
    per_recipe = compute_metrics(REFERENCES, PREDICTIONS, prompt_ingredients=ASKED).per_recipe
    assert [scores.well_formed for scores in per_recipe] == [1.0, 0.0, 0.0]
    assert [scores.rouge1 == 1.0 for scores in per_recipe] == [True, False, False]
    assert [scores.prompt_adherence for scores in per_recipe] == [
        prompt_adherence(PREDICTIONS[0], ASKED[0]),
        None,
        0.0,
    ]


def test_prints_as_an_aligned_table() -> None:
    rows = str(compute_metrics(REFERENCES, PREDICTIONS, loss=1.0)).splitlines()
    assert [row.split()[0] for row in rows] == [*NAMES[:-1], "recipes"]
    assert len({len(row) for row in rows}) == 1
    assert rows[0].split() == ["loss", "1.0000"]
    assert rows[-1].split() == ["recipes", "3"]


def test_a_diverged_loss_is_shown_as_infinite_perplexity() -> None:
    metrics = compute_metrics(REFERENCES, PREDICTIONS, loss=1e4)
    assert metrics["perplexity"] == math.inf
    assert "inf" in str(metrics)


@pytest.mark.parametrize(
    ("references", "predictions", "asked", "message"),
    [
        ([], [], None, "no predictions"),
        (REFERENCES, PREDICTIONS[:2], None, "3 references but 2 predictions"),
        (REFERENCES, PREDICTIONS, [[]], "1 lists of prompt_ingredients but 3 predictions"),
        (REFERENCES, PREDICTIONS, ["flour", "lemon", "bread"], r"prompt_ingredients\[0\] is one string"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    references: list[str], predictions: list[str], asked: list[list[str]] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        compute_metrics(references, predictions, prompt_ingredients=asked)


def test_an_empty_accumulator_has_no_metrics() -> None:
    with pytest.raises(ValueError, match="no predictions"):
        MetricAccumulator().compute()


rows = st.tuples(
    st.sampled_from(REFERENCES),
    st.sampled_from([*REFERENCES, *PREDICTIONS, "plain words"]),
    st.sampled_from([[], ["flour"], ["lemon", "tofu", "sugar"]]),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(rows, min_size=1, max_size=8), st.data())
def test_a_partition_merged_equals_the_whole(examples: list[tuple[str, str, list[str]]], data: st.DataObject) -> None:
    merged = MetricAccumulator()
    start = 0
    while start < len(examples):
        end = data.draw(st.integers(start + 1, len(examples)))
        references, predictions, asked = (list(column) for column in zip(*examples[start:end], strict=True))
        merged += accumulate(references, predictions, prompt_ingredients=asked)
        start = end
    references, predictions, asked = (list(column) for column in zip(*examples, strict=True))
    whole = compute_metrics(references, predictions, prompt_ingredients=asked, loss=2.0)
    assert merged.compute(loss=2.0) == whole
    assert (MetricAccumulator() + merged).compute(2.0).to_dict() == whole.to_dict()
