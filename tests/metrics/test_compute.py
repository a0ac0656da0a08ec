from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe_exp.metrics import METRICS, MetricAccumulator, TokenLoss, accumulate, compute_metrics, ingredients_in_prompt
from recipe_exp.metrics.form import completeness
from recipe_exp.recipes import Recipe, render_markdown

RECIPES = [
    Recipe("Pancakes", ("1 cup flour", "2 eggs", "1 cup milk"), ("Mix flour and eggs.", "Add milk.", "Fry.")),
    Recipe("Lemonade", ("2 lemons", "1/2 cup sugar"), ("Juice the lemons.", "Stir in the sugar.")),
    Recipe("Toast", ("1 slice bread",), ("Toast it.",)),
]
REFERENCES = [render_markdown(recipe) for recipe in RECIPES]
PREDICTIONS = [REFERENCES[0], "**Lemonade**\n\n**Ingredients:**\n- 2 lemons\n\n**Instructions:**\n1. Squeeze.", ""]
PROMPTS = ["Pancakes with 1 cup flour, 2 eggs", "Lemonade", "Toast of 1 slice bread"]
ASKED = [["1 cup flour", "tofu"], [], ["bread"]]


def test_a_metric_of_recipes_is_the_mean_over_those_it_applies_to() -> None:
    metrics = compute_metrics(REFERENCES, PREDICTIONS, prompt_ingredients=ASKED, loss=math.log(7))
    assert metrics["completeness"] == pytest.approx(math.fsum(completeness(text) or 0 for text in PREDICTIONS) / 3)
    assert metrics.per_example("prompt_adherence") == (0.5, None, 0.0)
    assert metrics["prompt_adherence"] == 0.25
    assert metrics["perplexity"] == pytest.approx(7)


def test_names_of_the_run_folder_are_kept() -> None:
    names = list(compute_metrics(REFERENCES, PREDICTIONS, prompt_ingredients=ASKED, loss=1.0).to_dict())
    assert names == [name for name in METRICS if name in names]
    assert {
        *("loss", "perplexity", "bleu", "rouge1", "rouge2", "rougeL", "ingredient_coherence", "instruction_quality"),
        *("completeness", "format_correctness", "well_formed", "prompt_adherence"),
    } <= set(names)


def test_the_steps_alone_are_compared_where_the_prompt_names_ingredients() -> None:
    steps = ["Juice the lemons.\nStir in the sugar.", "Toast it."]
    references = [render_markdown(recipe) for recipe in RECIPES]
    predictions = [
        references[0],
        references[1].replace("2 lemons", "tofu"),
        references[2].replace("Toast it", "Eat it"),
    ]
    asked = [[], ["lemons"], ["bread"]]
    metrics = compute_metrics(references, predictions, prompt_ingredients=asked)
    alone = compute_metrics(steps, [steps[0], "Eat it."])
    for name in ("bleu", "chrf", "rouge1", "rouge2", "rougeL", "rougeLsum", "length_ratio"):
        assert metrics[f"{name}_instructions"] == alone[name]
    nothing_asked = compute_metrics(references, predictions).to_dict()
    assert not [name for name in nothing_asked if name.endswith("_instructions") or name == "prompt_adherence"]


def test_ingredients_are_found_in_prompts() -> None:
    assert [ingredients_in_prompt(*row) for row in zip(REFERENCES, PROMPTS, strict=True)] == [
        ("1 cup flour", "2 eggs"),
        (),
        ("1 slice bread",),
    ]
    by_prompt = compute_metrics(REFERENCES, PREDICTIONS, prompts=PROMPTS)
    assert by_prompt.per_example("prompt_adherence") == (1.0, None, 0.0)


def test_statistics_give_the_metric_of_any_choice_of_examples() -> None:
    metrics = compute_metrics(REFERENCES, PREDICTIONS, prompt_ingredients=ASKED, loss=2.0)
    chosen = compute_metrics(*([part[1], part[1], part[0]] for part in (REFERENCES, PREDICTIONS)))
    assert "distinct_1" not in metrics.resampled_names
    for name in set(metrics.resampled_names) & set(chosen.to_dict()):
        rows = metrics.statistics(name)
        sums = [math.fsum(column) for column in zip(rows[1], rows[1], rows[0], strict=True)]
        assert METRICS[name].value(sums) == chosen[name], name
    for name in ("loss", "distinct_1", "nothing"):
        with pytest.raises(KeyError):
            metrics.per_example(name)


def test_prints_as_an_aligned_table() -> None:
    metrics = compute_metrics(REFERENCES, PREDICTIONS, loss=1.0)
    rows = str(metrics).splitlines()
    assert [row.split()[0] for row in rows] == [*metrics.to_dict(), "recipes"]
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
        ("ab", ["a", "b"], None, "references is one string"),
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


def test_prompts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="1 prompts but 3 predictions"):
        compute_metrics(REFERENCES, PREDICTIONS, prompts=["a"])


def test_an_empty_accumulator_has_no_metrics() -> None:
    with pytest.raises(ValueError, match="no predictions"):
        MetricAccumulator().compute()


rows = st.tuples(
    st.sampled_from(REFERENCES),
    st.sampled_from([*REFERENCES, *PREDICTIONS, "plain words"]),
    st.sampled_from([[], ["flour"], ["lemon", "tofu", "sugar"]]),
    st.floats(0, 1e3),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(rows, min_size=1, max_size=8), st.data())
def test_any_partition_merged_in_any_order_equals_the_whole(
    examples: list[tuple[str, str, list[str], float]], data: st.DataObject
) -> None:
    places = data.draw(st.lists(st.integers(0, 3), min_size=len(examples), max_size=len(examples)))
    merged, loss = MetricAccumulator(), TokenLoss()
    for place in data.draw(st.permutations(range(4))):
        part = [example for example, where in zip(examples, places, strict=True) if where == place]
        if part:
            references, predictions, asked, losses = (list(column) for column in zip(*part, strict=True))
            merged += accumulate(references, predictions, prompt_ingredients=asked)
            loss += TokenLoss(tuple(losses), 7 * len(part))
    references, predictions, asked, losses = (list(column) for column in zip(*examples, strict=True))
    whole_loss = TokenLoss(tuple(losses), 7 * len(examples))
    whole = compute_metrics(references, predictions, prompt_ingredients=asked, loss=whole_loss)
    assert merged.compute(loss).to_dict() == whole.to_dict()
    assert (MetricAccumulator() + merged).compute(loss).to_dict() == whole.to_dict()
