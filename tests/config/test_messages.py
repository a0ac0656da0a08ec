from __future__ import annotations

from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from recipe_exp.config.base import Section, Strings
from recipe_exp.config.messages import (
    dotted_key,
    mistakes_of,
    show_change,
    show_line,
    show_path,
    show_setting,
    show_value,
)

TOKEN = "hf_" + "a1B2" * 6


class Small(Section):
    """A section with one field of each kind."""

    count: Annotated[int, Field(ge=1, le=1000000)] | Literal["auto"] = 1
    """Either a number or a word."""
    rate: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """A bounded number."""
    words: Strings = ()
    """A list."""
    name: str
    """Mandatory."""


def lines(**values: object) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        Small.model_validate(values)
    return mistakes_of(caught.value)


def test_each_mistake_is_one_line_with_key_value_and_reason() -> None:
    assert lines(count=0, rate=1, words=["a", 1], more=2) == [
        "count=0: must be at least 1 or one of 'auto'",
        "rate=1: must be less than 1",
        "words=1: must be text; quote it as '\"...\"' if it looks like a number",
        "name: is missing",
        "more=2: no such key",
    ]


def test_bounds_are_readable() -> None:
    assert lines(count=2000000, name="a") == ["count=2000000: must be at most 1,000,000 or one of 'auto'"]
    assert lines(rate=0.0, name="a") == ["rate=0.0: must be greater than 0"]


def test_dotted_key_drops_what_pydantic_adds() -> None:
    assert dotted_key(("training", "adapter", "lora", "rank")) == "training.adapter.rank"
    assert dotted_key(("task", "generate", "prompts", 3)) == "task.prompts"
    assert dotted_key(("hardware", "num_processes", "constrained-int")) == "hardware.num_processes"
    assert dotted_key(("hardware", "num_processes", "literal['auto']")) == "hardware.num_processes"


def test_values_are_shown_as_they_would_be_typed() -> None:
    assert [show_value(value) for value in (None, True, 1.5, "a b", "1e-3", ["a"], {"a": 1})] == [
        *("null", "true", "1.5", "a b", '"1e-3"', '["a"]', '{"a": 1}'),
    ]
    assert show_value("crème brûlée") == "crème brûlée"


def test_a_change_shows_where_long_texts_differ() -> None:
    start = "/a/very/long/folder/of/experiments/that/somebody/keeps/on/another/disk/"
    assert show_change(f"{start}first", f"{start}second").endswith("on/another/disk/second")
    assert show_change(f"{start}first", f"{start}second").startswith("...")
    assert show_change("a", None) == "a -> null"
    assert show_change(1e-4, 2e-4) == "0.0001 -> 0.0002"


def test_long_and_unprintable_values_are_cut_to_a_line() -> None:
    assert show_value("x" * 500) == "x" * 57 + "..."
    assert show_value("a\nb\x1b[31m") == "a?b?[31m"
    assert len(show_line("key=" + "x" * 500)) == 120


@given(st.text(max_size=200))
def test_every_text_is_shown_in_one_printable_line(text: str) -> None:
    for shown in (show_value(text), show_line(text), show_setting(text, text)):
        assert shown.isprintable()
        assert len(shown) < 200


@pytest.mark.parametrize(
    "shown",
    [
        show_value(f"before {TOKEN} after"),
        show_value({"deep": {"password": TOKEN}}),
        show_value([TOKEN]),
        show_value("postgres://me:" + TOKEN + "@host/db"),
        show_setting("api_key", TOKEN),
        show_line(f"my_token={TOKEN}"),
        show_line(f"+x.password ={TOKEN}"),
        show_line(f"anything {TOKEN}"),
    ],
)
def test_secrets_are_hidden(shown: str) -> None:
    assert TOKEN not in shown
    assert "***" in shown


def test_password_of_any_shape_is_hidden_by_its_name() -> None:
    assert show_line("x.password=swordfish") == "x.password=***"
    assert show_setting("webhook_url", "swordfish") == "webhook_url=***"
    assert show_value({"secret": "swordfish", "max_source_tokens": 3}) == '{"secret": "***", "max_source_tokens": 3}'
    assert show_line("data.max_source_tokens=3") == "data.max_source_tokens=3"


def test_values_of_any_size_and_depth_are_shown_at_once() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    shared: list[object] = ["x"] * 10
    for _ in range(12):
        shared = [shared] * 10
    for value in (deep, shared, "x" * 10**7, 10**10_000, {"a": [1] * 10**6}):
        assert len(show_value(value)) <= 60
    assert show_value(deep).startswith("[[[")


def test_paths_are_shown_in_one_line() -> None:
    assert show_path("/a/\x1b[31m\udcff\n") == "/a/?[31m??"
    assert len(show_path("x" * 10_000)) == 300
