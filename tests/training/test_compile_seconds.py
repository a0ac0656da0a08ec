"""How long compiling took is logged where it took longer, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest

from recipe_exp.training.callbacks.metrics import MetricsCallback


@pytest.mark.parametrize(
    ("seconds", "logged"), [([0.0, 0.0], [None, None]), ([4.5, 4.5, 6.0], [4.5, None, 6.0]), ([0.0, 2.0], [None, 2.0])]
)
def test_seconds_are_logged_when_there_are_more(seconds: list[float], logged: list[float | None]) -> None:
    measured = iter(seconds)
    guard: Any = None
    callback = MetricsCallback(1, guard, list, compile_seconds=lambda: next(measured))
    assert [callback._compiling().get("train/compile_seconds") for _ in seconds] == logged
