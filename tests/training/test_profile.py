from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from recipe_exp.training.callbacks.callback import Callback
from recipe_exp.training.callbacks.profile import Operator, ProfileCallback, operators_of, table
from recipe_exp.training.trainer import Trainer

TrainerBuilder = Callable[..., Trainer]


class Multiply(Callback):
    """A step that multiplies."""

    def on_step_begin(self, trainer: object) -> None:
        torch.mm(torch.ones(300, 300), torch.ones(300, 300))


def test_the_steps_after_the_first_ones_are_recorded(build_trainer: TrainerBuilder, tmp_path: Path) -> None:
    lines: list[str] = []
    callback = ProfileCallback(tmp_path / "profile", 2, lines.append)
    build_trainer(callback, Multiply(), total_steps=8).fit()
    trace = json.loads((tmp_path / "profile" / "trace.json").read_text())
    products = [event for event in trace["traceEvents"] if event.get("name") == "aten::mm"]
    assert len(products) == 2
    shown = (tmp_path / "profile" / "operators.txt").read_text().splitlines()
    assert shown == lines[:-1]
    assert str(tmp_path / "profile" / "trace.json") in lines[-1]
    (row,) = [line.split() for line in shown if line.startswith("aten::mm ")]
    assert row[1] == "1.0", "calls a step"


def test_a_run_that_ends_before_keeps_what_there_is(build_trainer: TrainerBuilder, tmp_path: Path) -> None:
    lines: list[str] = []
    build_trainer(ProfileCallback(tmp_path, 100, lines.append), Multiply(), total_steps=4).fit()
    assert any(line.startswith("aten::mm ") for line in lines)
    assert (tmp_path / "trace.json").is_file()


def test_a_run_of_too_few_steps_says_so(build_trainer: TrainerBuilder, tmp_path: Path) -> None:
    lines: list[str] = []
    build_trainer(ProfileCallback(tmp_path / "profile", 1, lines.append), total_steps=3).fit()
    assert lines == ["profile: the run ended within its first 3 steps, so nothing was recorded"]
    assert not (tmp_path / "profile").exists()


def test_operators_come_with_their_own_time_the_costliest_first() -> None:
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        for _ in range(3):
            torch.mm(torch.ones(400, 400), torch.ones(400, 400))
    operators = operators_of(recorded)
    assert [operator.seconds for operator in operators] == sorted((each.seconds for each in operators), reverse=True)
    counts = {operator.name: operator.num_calls for operator in operators}
    assert counts["aten::mm"] == 3
    assert counts["aten::ones"] == 6


def test_table_shows_time_a_step_and_shares_of_the_whole() -> None:
    many = [Operator("aten::mm", 6, 0.030), *(Operator(f"aten::{number}", 2, 0.001) for number in range(20))]
    lines = table(many, num_steps=2)
    assert lines[0].split() == ["operator", "calls/step", "ms/step", "share"]
    assert lines[1].split() == ["aten::mm", "3.0", "15.00", "60.0%"]
    assert len(lines) == 13
    assert len(table([], num_steps=1)) == 1
