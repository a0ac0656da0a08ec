"""What a person sees of a plan."""

from __future__ import annotations

import pytest
from rich.console import Console

from recipe_exp.planning.memory import GIB
from recipe_exp.planning.table import duration_text, plan_line, plan_table


@pytest.fixture
def shown(composed, planned):
    """The lines of a plan at a terminal's width."""

    def show(*overrides, width=80, **extra):
        plan = planned(composed(*overrides), num_examples=9600)
        console = Console(width=width, no_color=True, record=True, file=None, force_terminal=False)
        with console.capture() as capture:
            console.print(plan_table(plan, **extra))
        return capture.get()

    return show


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize("size", ["small", "xl", "xxl"])
def test_no_number_is_cut(shown, size, width):
    text = shown(f"model=flan_t5_{size}", "training=full", "hardware=rtx5090", width=width)
    assert "…" not in text
    assert all(len(line) <= width for line in text.splitlines())


def test_a_plan_that_fits_says_so_and_what_a_night_brings(shown):
    text = shown("model=flan_t5_base", "training=full", "hardware=rtx5090", device_name="Some GPU")
    assert "fits" in text
    assert "training.max_steps=" in text
    assert "Some GPU" in text
    words = " ".join(text.split())
    assert "what is typical of recipes" in words
    assert "forward: encoder 11%, decoder 59%" in words


def test_a_plan_that_does_not_fit_shows_the_overrides(shown):
    text = shown("model=flan_t5_xl", "training=full", "hardware=rtx5090")
    assert "does not fit" in text
    assert "model.gradient_checkpointing=true" in text


def test_memory_in_use_by_others_is_said(shown):
    text = shown("model=flan_t5_base", "training=full", "hardware=rtx5090", free_bytes=3 * GIB)
    assert "only 3.0 GiB are free" in text


def test_numbers_are_in_units_that_are_read_easily():
    assert [duration_text(s) for s in (0.061, 1.234, 600, 7200, 864_000)] == [
        "61 ms",
        "1.2 s",
        "10.0 min",
        "2.0 h",
        "10.0 days",
    ]


def test_an_unusual_learning_rate_is_noted(shown):
    text = shown("model=flan_t5_xl", "training=full", "hardware=h100")
    assert "note" in text
    assert "training.learning_rate=0.0005 is unusually high" in " ".join(text.split())


def test_one_line_says_memory_and_time(composed, planned):
    line = plan_line(planned(composed("model=flan_t5_base", "training=full", "hardware=rtx5090"), num_examples=9600))
    assert "\n" not in line
    assert "usable at most" in line
    assert "an epoch" in line
