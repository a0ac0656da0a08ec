from __future__ import annotations

import pytest

from recipe_exp.tracking.machine_metrics import MACHINE_METRICS
from recipe_exp.training.time_spent import ACTIVITIES, TimeSpent


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_what_happens_inside_something_else_counts_once() -> None:
    clock = Clock()
    spent = TimeSpent(clock)
    clock.seconds += 1
    with spent.on("evaluation"):
        clock.seconds += 2
        with spent.on("logging"):
            clock.seconds += 3
        clock.seconds += 4
        with spent.on("logging"):
            clock.seconds += 5
    with spent.on("data_wait"):
        clock.seconds += 10
    assert spent.shares() == {"data_wait": 10 / 25, "evaluation": 6 / 25, "logging": 8 / 25, "checkpoint": 0.0}


def test_an_error_inside_still_counts() -> None:
    clock = Clock()
    spent = TimeSpent(clock)

    def save() -> None:
        clock.seconds += 1
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"), spent.on("checkpoint"):
        save()
    clock.seconds += 3
    assert spent.shares()["checkpoint"] == 0.25


def test_it_starts_from_zero_again() -> None:
    clock = Clock()
    spent = TimeSpent(clock)
    with spent.on("logging"):
        clock.seconds += 1
    spent.start()
    assert set(spent.shares().values()) == {0.0}
    with spent.on("data_wait"):
        clock.seconds += 2
    assert spent.shares()["data_wait"] == 1.0


def test_no_two_runs_share_a_share_of_time() -> None:
    assert {f"train/{activity}_share" for activity in ACTIVITIES} <= MACHINE_METRICS
