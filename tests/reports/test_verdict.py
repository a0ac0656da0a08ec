from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe_exp.metrics.example_scores import ExampleScores, example_id
from recipe_exp.reports.html import as_html
from recipe_exp.reports.markdown import as_markdown
from recipe_exp.reports.page import Parallel
from recipe_exp.reports.run_summary import Best, RunSummary
from recipe_exp.reports.verdict import judge
from recipe_exp.reports.verdict_page import figures, key_plots, verdict_page
from recipe_exp.reports.verdict_text import as_data, failures, findings, headline, winning_command

NUM_EXAMPLES = 40
RATE = "training.learning_rate"


def scores_of(level: float, *, seed: int = 0, first: int = 0) -> ExampleScores:
    """Losses a token around a level: how hard an example is stays the same, but half are easier to odd seeds."""
    ids = range(first, first + NUM_EXAMPLES)
    own = {number: level + 0.3 * (number % 7) - 0.9 + 0.05 * (-1) ** (number + seed) for number in ids}
    sums = tuple(10 * own[number] for number in ids)
    return ExampleScores(tuple(example_id(str(number)) for number in ids), sums, (10,) * NUM_EXAMPLES)


def make(name: str, value: float | None, *, metric: str = "eval/loss", **fields: Any) -> RunSummary:
    best = None if value is None else Best(metric, value, 4)
    scores = None if value is None or metric != "eval/loss" else scores_of(value)
    return RunSummary(**{"name": name, "status": "finished", "run_id": name, "best": best, "scores": scores} | fields)


def by_rate(*values: tuple[float, float], **fields: Any) -> list[RunSummary]:
    return [
        make(f"rate {rate:g}", value, settings={RATE: rate}, scores=scores_of(value, seed=seed), **fields)
        for seed, (rate, value) in enumerate(values)
    ]


def test_the_best_comes_first_and_real_differences_are_told_from_chance() -> None:
    verdict = judge(by_rate((1e-3, 2.5), (3e-3, 2.0), (1e-2, 2.001)))
    assert [each.label for each in verdict.ranked] == [
        "learning_rate=0.003",
        "learning_rate=0.01",
        "learning_rate=0.001",
    ]
    near, far = verdict.ranked[1:]
    assert near.difference is not None
    assert far.difference is not None
    assert (verdict.is_real(near), verdict.is_real(far)) == (False, True)
    assert far.difference.low < 0.5 < far.difference.high
    assert verdict.best is not None
    assert verdict.best.interval is not None
    assert verdict.best.interval.low < verdict.best.interval.high
    text = " / ".join(findings(verdict))
    assert "really better than learning_rate=0.001 by 0.5000" in text
    assert "not told apart from learning_rate=0.01" in text
    assert headline(verdict).startswith("best: learning_rate=0.003, eval/loss 2.0000 (")


def test_a_higher_score_is_better_where_it_is() -> None:
    verdict = judge([make("a", 0.2, metric="eval/rougeL"), make("b", 0.4, metric="eval/rougeL")])
    assert [each.run.name for each in verdict.ranked] == ["b", "a"]
    assert verdict.ranked[1].difference is None
    assert "no interval for the difference from a" in findings(verdict)[0]


def test_what_did_not_finish_is_not_ranked_and_says_why() -> None:
    runs = [
        make("good", 2.0),
        make("broken", 1.0, status="failed", step=3, reason="DataError: no recipe"),
        make("nan", math.nan),
        make("silent", None),
        make("other", 0.5, metric="eval/rouge1"),
    ]
    verdict = judge(runs)
    assert [each.run.name for each in verdict.ranked] == ["good"]
    assert failures(verdict) == [
        "broken: failed at step 3: DataError: no recipe",
        "nan: eval/loss is nan",
        "silent: was not evaluated",
        "other: was judged by eval/rouge1",
    ]
    assert headline(verdict).startswith("the only run that can be ranked: good")


def test_runs_that_all_stopped_early_are_compared_all_the_same() -> None:
    verdict = judge([make("a", 2.0, status="interrupted"), make("b", 3.0, status="interrupted")])
    assert [each.run.name for each in verdict.ranked] == ["a", "b"]


def test_no_run_with_a_value_is_no_verdict() -> None:
    verdict = judge([make("a", None), make("b", None, status="failed")])
    assert (headline(verdict), winning_command(verdict)) == ("no run can be ranked", None)
    assert "no run can be ranked" in as_html(verdict_page(verdict, "two runs")).lower()


def test_an_edge_is_named_with_where_to_go_on() -> None:
    (edge,) = judge(by_rate((1e-3, 2.5), (3e-3, 2.2), (1e-2, 2.0))).edges
    assert (edge.key, edge.value, edge.suggestion) == (RATE, 0.01, (0.033, 0.11))
    (edge,) = judge(by_rate((1e-3, 2.0), (3e-3, 2.2), (1e-2, 2.5))).edges
    assert edge.suggestion == (0.00011, 0.00033)
    assert judge(by_rate((1e-3, 2.5), (3e-3, 2.0), (1e-2, 2.2))).edges == ()
    ranks = [make(f"r{rank}", 3 - rank / 10, settings={"training.adapter.rank": rank}) for rank in (4, 8, 16)]
    assert "extend to training.adapter.rank=32,64" in " ".join(findings(judge(ranks)))


def test_repeated_seeds_say_what_chance_does() -> None:
    values = {(1e-3, 0): 2.0, (1e-3, 1): 2.1, (1e-2, 0): 2.05, (1e-2, 1): 2.15, (1e-1, 0): 3.0, (1e-1, 1): 3.1}
    runs = [
        make(f"{rate}-{seed}", value, settings={"seed": seed, RATE: rate}) for (rate, seed), value in values.items()
    ]
    verdict = judge(runs)
    assert verdict.noise is not None
    assert verdict.noise.deviation == pytest.approx(math.sqrt(0.1**2 / 2))
    assert verdict.noise.groups[0] == ("learning_rate=0.001", pytest.approx(2.05), 2)
    near = next(each for each in verdict.ranked if each.run.name == "0.001-1")
    assert near.difference is not None
    assert near.difference.is_real
    assert not verdict.is_real(near), "a seed alone does as much"
    assert verdict.is_real(verdict.ranked[-1])


def test_runs_are_paired_by_the_recipe_wherever_it_stands() -> None:
    runs = [make("a", 2.0), make("b", 2.5)]
    shifted = scores_of(2.5, first=NUM_EXAMPLES // 2)
    verdict = judge([runs[0], make("b", 2.5, scores=shifted)])
    assert verdict.ranked[1].difference is not None
    assert verdict.ranked[1].difference.value == pytest.approx(0.5, abs=0.06)
    assert "different recipes" in " ".join(verdict.warnings)
    apart = judge([runs[0], make("b", 2.5, scores=scores_of(2.5, first=1000))])
    assert apart.ranked[1].difference is None


def test_losses_of_different_tokenizers_are_not_comparable() -> None:
    runs = [make(name, 2.0, record={"data": {"tokenizer": name}}) for name in ("a", "b")]
    assert "different tokenizers" in findings(judge(runs))[-1]


def test_the_winner_is_trained_by_the_command_of_its_run() -> None:
    command = [
        "python",
        "-m",
        "recipe_exp",
        f"{RATE}=1e-2",
        "run_name='x'",
        "hydra.mode=RUN",
        "data.prompt={title} now",
    ]
    verdict = judge([make("a", 2.0, record={"command": command})])
    assert winning_command(verdict) == f"python -m recipe_exp {RATE}=1e-2 'data.prompt={{title}} now'"


def test_the_page_has_every_part_and_loads_nothing() -> None:
    series = {"eval/loss": ((1, 3.0), (2, 2.0)), "train/loss": ((1, 3.1), (2, math.nan))}
    runs = [
        make(f"{rate}-{kind}", value, settings={RATE: rate, "training.adapter.kind": kind}, series=series)
        for rate, kind, value in ((1e-3, "none", 2.0), (1e-2, "lora", 2.2), (1e-4, "none", 2.4))
    ]
    verdict = judge([*runs, make("broken", None, status="failed", reason="<b>no</b>")])
    page = verdict_page(verdict, "a <sweep>")
    html = as_html(page)
    for part in ("The decision", "The ranking", "What each parameter does", "Learning curves", "logarithmic axis"):
        assert part in html
    assert "http" not in html.replace("http://www.w3.org/2000/svg", "")
    assert "&lt;b&gt;no" in html
    assert "<script" not in html
    assert "a \\<sweep" in as_markdown(page) or "a &lt;sweep" in as_markdown(page)
    rate, kind, parallel = key_plots(verdict)
    assert not isinstance(rate, Parallel)
    assert rate.x_is_log
    assert not isinstance(kind, Parallel)
    assert kind.x_labels == ("none", "lora")
    assert isinstance(parallel, Parallel)
    assert parallel.merits[0] == 1.0
    assert set(figures(verdict)) >= {"eval_loss_by_learning_rate", "eval_loss", "train_loss", "All_parameters_together"}


def test_everything_is_there_as_data() -> None:
    data = as_data(judge(by_rate((1e-3, 2.5), (1e-2, 2.0))))
    assert data["extend"] == {RATE: [0.1, 1.0]}
    assert [each["label"] for each in data["ranking"]] == ["learning_rate=0.01", "learning_rate=0.001"]
    assert data["ranking"][1]["from_the_best"]["is_real"] is True


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.floats() | st.none(), max_size=6), st.lists(st.sampled_from([0.1, 0.2, "x", None, True]), max_size=6)
)
def test_every_set_of_runs_has_a_page(values: list[float | None], keys: list[Any]) -> None:
    runs = [
        make(f"run {number}", value, scores=None, settings={"seed": key, "training.batch_size": number})
        for number, (value, key) in enumerate(zip(values, keys, strict=False))
    ]
    verdict = judge(runs)
    assert len(verdict.ranked) + len(verdict.unranked) == len(runs)
    assert as_html(verdict_page(verdict, "runs")).startswith("<!doctype html>")
    assert as_markdown(verdict_page(verdict, "runs"))
