from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe_exp.tracking import Progress, notices

AT = Progress(4_000, 12_000)
SAMPLE = (
    "Write a recipe for " + "very " * 30 + "good bread",
    "**Bread**\n\n" + "\n".join(f"- {i} g" for i in range(9)),
)


def test_progress_reads_at_a_glance() -> None:
    metrics = {"train/loss": 1.23456, "eval/loss": 1.3, "eval/bleu": 12.3456, "eval/rougeL": 0.0, "system/cpu": 1.0}
    message = notices.going_on("base", AT, 19_230.0, metrics, SAMPLE)
    assert message.title == "base at step 4,000 of 12,000, about 5 h 20 min left"
    assert message.body.splitlines()[:4] == [
        "train/loss 1.235",
        "eval: loss 1.3, bleu 12.3, rougeL 0",
        "",
        "> Write a recipe for very very very very very very very very very very very v...",
    ]
    assert message.body.splitlines()[4:] == ["**Bread**", "- 0 g", "- 1 g", "- 2 g", "- 3 g", "- 4 g", "..."]


def test_progress_before_any_evaluation_is_short() -> None:
    assert notices.going_on("base", AT, None, {"train/loss": 2.0}, None).body == "train/loss 2.000"
    assert notices.going_on("base", AT, None, {"train/loss": 2.0}, None).title == "base at step 4,000 of 12,000"


def test_begin_says_whether_the_run_goes_on() -> None:
    assert notices.started("base", Progress(0, 12_000), "GPU").title == "base started"
    assert notices.started("base", Progress(0, 12_000), "GPU").body == "12,000 steps\nGPU"
    assert notices.started("base", AT, "GPU").title == "base goes on after step 4,000 of 12,000"


def test_best_says_what_it_was() -> None:
    message = notices.new_best("base", AT, "eval/loss", 1.25, 1.5, None)
    assert (message.title, message.body) == ("base: new best at step 4,000 of 12,000", "eval/loss 1.25, was 1.5")
    assert notices.new_best("base", AT, "eval/loss", 1.25, None, None).body == "eval/loss 1.25"


def test_every_end_says_what_to_do_next() -> None:
    best = {"metric": "eval/loss", "value": 1.25, "step": 11_000}
    done = notices.finished("base", Progress(12_000, 12_000), 29_000.0, best, "/runs/x/model", is_early=False)
    assert done.title == "base finished after 12,000 steps in 8 h 3 min"
    assert done.body == "best eval/loss 1.25 at step 11,000\n/runs/x/model"
    early = notices.finished("base", AT, 29_000.0, None, "/runs/x/model", is_early=True)
    assert early.title == "base stopped improving and finished after 4,000 steps in 8 h 3 min"
    stopped = notices.interrupted("base", AT, "sigterm", "python -m recipe_exp resume=x")
    assert stopped.title == "base interrupted because the machine was taken away at step 4,000 of 12,000"
    assert stopped.body == "continue with\n  python -m recipe_exp resume=x"
    early = notices.interrupted("base", None, "sigint", "python -m recipe_exp resume=x")
    assert early.title == "base interrupted by Ctrl-C before the first step"
    broken = notices.failed("base", None, "DataError: no recipes", None)
    assert (broken.title, broken.body) == ("base failed before the first step", "DataError: no recipes")
    assert "resume=x" in notices.failed("base", AT, "TrainingError: NaN", "python -m recipe_exp resume=x").body
    assert "resume=x" in notices.killed("base", "python -m recipe_exp resume=x").body


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.2, "0 s"), (89, "89 s"), (91, "2 min"), (3_600, "1 h"), (12_000, "3 h 20 min"), (187_200, "2 d 4 h")],
)
def test_durations_have_two_units_at_most(seconds: float, shown: str) -> None:
    assert notices.duration(seconds) == shown


@given(st.floats(0, 1e9))
def test_any_duration_can_be_read(seconds: float) -> None:
    shown = notices.duration(seconds)
    assert 2 <= len(shown.split()) <= 4
    assert not shown.startswith("0 ") or seconds <= 0.5


@given(st.text(), st.text())
def test_any_sample_stays_a_few_lines(prompt: str, generated: str) -> None:
    message = notices.going_on("base", AT, 1.0, {"train/loss": 1.0}, (prompt, generated))
    assert len(message.body.split("\n")) <= 10
    assert all(len(line) <= 90 for line in message.body.split("\n"))
