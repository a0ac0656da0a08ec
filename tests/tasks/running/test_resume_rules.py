from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe_exp.config.compose import compose
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.relevance import Difference
from recipe_exp.data.plan import WindowPlan
from recipe_exp.errors import ResumeError
from recipe_exp.tasks.running.resume_rules import Span, extended, length_problem, planned_steps, refuse, span_of

TRAINING = compose().training
BEFORE = Span(total_steps=100, schedule_steps=80)


def config_with(*overrides: str) -> ExperimentConfig:
    return compose(["resume=latest", *overrides])


@given(st.integers(1, 5000), st.integers(1, 64), st.integers(1, 9), st.none() | st.integers(1, 3000))
def test_the_planned_steps_are_those_of_the_plan(examples: int, batch: int, epochs: int, max_steps: int | None) -> None:
    training = TRAINING.model_copy(update={"batch_size": batch, "num_epochs": epochs, "max_steps": max_steps})
    whole = WindowPlan(examples, batch, 0, "").windows_per_epoch * epochs
    assert planned_steps(training, examples) == (whole if max_steps is None else min(whole, max_steps))


def test_a_record_without_schedule_steps_had_its_schedule_over_the_whole_run() -> None:
    assert span_of({"total_steps": 9}) == Span(9, 9)
    assert span_of({"total_steps": 9, "schedule_steps": 4}) == Span(9, 4)
    assert span_of({}) is None


@pytest.mark.parametrize(
    ("wish", "total_steps", "expected"),
    [
        (None, 100, Span(100, 80)),
        ("keep", 100, Span(100, 80)),
        ("stretch", 100, Span(100, 100)),
        ("keep", 150, Span(150, 80)),
        ("stretch", 150, Span(150, 150)),
        ("stretch", 50, Span(50, 50)),
        ("keep", 50, Span(50, 80)),
    ],
)
def test_a_schedule_is_kept_or_stretched(wish: str | None, total_steps: int, expected: Span) -> None:
    config = config_with(f"resume_schedule={wish or 'null'}")
    assert extended(BEFORE, total_steps, config) == expected
    assert extended(None, total_steps, config) == Span(total_steps, total_steps)


@pytest.mark.parametrize(
    ("schedule", "wish", "total_steps", "part"),
    [
        ("linear", None, 150, "resume_schedule=stretch lays it over 150 steps"),
        ("linear", "keep", 150, "ends at a rate of zero after 80 steps"),
        ("linear", "keep", 90, "further steps would learn nothing"),
        ("cosine", None, 150, "resume_schedule=stretch"),
        ("cosine", "keep", 150, "take resume_schedule=stretch"),
        ("cosine_with_restarts", "keep", 150, "take resume_schedule=stretch"),
        ("linear", None, 70, "resume_schedule=keep leaves it laid over 80"),
        ("cosine training.schedule.min_ratio=0.1", None, 150, "resume_schedule=keep leaves it laid over 80"),
    ],
)
def test_another_length_of_a_decay_needs_a_decision(
    schedule: str, wish: str | None, total_steps: int, part: str
) -> None:
    config = config_with(*f"training/schedule={schedule}".split(), f"resume_schedule={wish or 'null'}")
    problem = length_problem(BEFORE, total_steps, 40, config)
    assert problem is not None
    assert part in problem


@pytest.mark.parametrize(
    ("schedule", "wish", "total_steps"),
    [
        *(("linear", wish, 100) for wish in (None, "keep", "stretch")),
        *(("linear", "stretch", total) for total in (50, 150)),
        ("linear", "keep", 70),
        ("cosine training.schedule.min_ratio=0.1", "keep", 150),
        *((schedule, None, total) for schedule in ("constant", "inverse_square_root") for total in (50, 150)),
    ],
)
def test_nothing_speaks_against_it(schedule: str, wish: str | None, total_steps: int) -> None:
    config = config_with(*f"training/schedule={schedule}".split(), f"resume_schedule={wish or 'null'}")
    assert length_problem(BEFORE, total_steps, 40, config) is None


def test_a_run_is_not_made_shorter_than_it_is() -> None:
    config = config_with("training/schedule=constant", "resume_schedule=stretch")
    assert "has done 60 steps already, more than the 50" in (length_problem(BEFORE, 50, 60, config) or "")
    assert length_problem(BEFORE, 60, 60, config) is None


def test_everything_that_differs_is_in_one_message_with_the_names_that_permit_it() -> None:
    found = [Difference("seed", 0, 1), Difference("data", "a", "b"), Difference("training.max_steps", 4, 8)]
    with pytest.raises(ResumeError) as caught:
        refuse("RUN", found, "too long", config_with("resume_allow=[device]"))
    assert str(caught.value).split("\n")[1:] == [
        "  seed: 0 -> 1",
        "  data: a -> b",
        "  training.max_steps: 4 -> 8",
        "too long",
        "set back what differs, or leave out resume=... for a run of its own; "
        "'resume_allow=[device,seed,data]' goes on all the same",
    ]


def test_no_permission_is_offered_for_what_the_checkpoint_does_not_fit() -> None:
    found = [Difference("seed", 0, 1), Difference("training.optimizer.kind", "adamw", "adafactor")]
    with pytest.raises(ResumeError) as caught:
        refuse("RUN", found, None, config_with())
    remedy = str(caught.value).split("\n")[-1]
    assert remedy.endswith("the checkpoint's weights and moments fit no other training.optimizer.kind")
    assert "resume_allow" not in remedy


def test_what_is_permitted_is_not_refused() -> None:
    found = [Difference("seed", 0, 1), Difference("precision", "bf16", "fp32"), Difference("training.max_steps", 4, 8)]
    refuse("RUN", found, None, config_with("resume_allow=[seed,training.precision]"))
    refuse("RUN", found, None, config_with("resume_allow=[seed,precision]"))
    with pytest.raises(ResumeError, match="precision: bf16 -> fp32"):
        refuse("RUN", found, None, config_with("resume_allow=[seed]"))
