"""What compiling took is logged where it took longer, and what it saves once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from recipe_exp.training.callbacks import Callback
from recipe_exp.training.callbacks.compiling import CompileSavingCallback
from recipe_exp.training.callbacks.metrics import MetricsCallback
from recipe_exp.training.trainer import Trainer

TrainerBuilder = Callable[..., Trainer]


@pytest.mark.parametrize(
    ("seconds", "logged"), [([0.0, 0.0], [None, None]), ([4.5, 4.5, 6.0], [4.5, None, 6.0]), ([0.0, 2.0], [None, 2.0])]
)
def test_seconds_are_logged_when_there_are_more(seconds: list[float], logged: list[float | None]) -> None:
    measured = iter(seconds)
    guard: Any = None
    callback = MetricsCallback(1, guard, list, compile_seconds=lambda: next(measured))
    assert [callback._compiling().get("train/compile_seconds") for _ in seconds] == logged


class Kept(Callback):
    """Keeps what was logged, by step."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, Mapping[str, float]]] = []

    def on_log(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        self.entries.append((trainer.state.step, metrics))


@pytest.mark.parametrize("seconds", [(3.0, 2.0), None])
def test_what_it_saves_is_logged_once_where_it_can_be_measured(
    build_trainer: TrainerBuilder, seconds: tuple[float, float] | None
) -> None:
    lines: list[str] = []
    kept = Kept()
    build_trainer(CompileSavingCallback(lambda: seconds, lambda: 80.0, lines.append), kept).fit()
    if seconds is None:
        assert (kept.entries, lines) == ([], [])
        return
    assert kept.entries == [(3, {"train/compile_speedup": 1.5})]
    assert lines == ["compiled in 80.0 s: forward and backward pass take 67% of the time that they take uncompiled"]
