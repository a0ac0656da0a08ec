from __future__ import annotations

import pytest

from recipe_exp.config.compose import compose, compose_command
from recipe_exp.config.relevance import numbers_relevant
from recipe_exp.config.sweep import SweepConfig, sweep_contradictions
from recipe_exp.errors import ConfigError

SEARCH = ("sweep.search=tpe", "sweep.num_trials=5")


def mistakes(*overrides: str, is_sweep: bool = True) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        _ = compose_command(overrides, is_sweep=is_sweep).config
    return caught.value.mistakes


@pytest.mark.parametrize(
    ("sweep", "key"),
    [
        (SweepConfig(new=True, extend="latest"), "sweep.new"),
        (SweepConfig(num_trials=3), "sweep.num_trials"),
        (SweepConfig(pruner="median"), "sweep.pruner"),
        (SweepConfig(search="tpe"), "sweep.search"),
        (SweepConfig(search="random"), "sweep.search"),
        (SweepConfig(search="random", num_trials=3, extend="latest"), "sweep.extend"),
        (SweepConfig(search="gp", num_trials=3, shard="1/2"), "sweep.shard"),
        (SweepConfig(search="random", num_trials=3, shard="1/2", pruner="median"), "sweep.shard"),
        (SweepConfig(minimize_time=True), "sweep.minimize_time"),
        (SweepConfig(search="tpe", num_trials=3, pruner="median", minimize_time=True), "sweep.minimize_time"),
    ],
)
def test_keys_that_cannot_both_hold_are_named(sweep: SweepConfig, key: str) -> None:
    (line,) = sweep_contradictions(sweep)
    assert line.startswith(key)


@pytest.mark.parametrize(
    "sweep",
    [
        SweepConfig(),
        SweepConfig(shard="2/2", extend="latest"),
        SweepConfig(search="random", num_trials=3, shard="1/2"),
        SweepConfig(search="tpe", num_trials=3, pruner="hyperband"),
        SweepConfig(search="gp", num_trials=3, minimize_time=True),
    ],
)
def test_what_goes_together_is_accepted(sweep: SweepConfig) -> None:
    assert list(sweep_contradictions(sweep)) == []


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "1/0", "a/b", "1/2/3"])
def test_a_shard_is_a_part_of_a_whole(shard: str) -> None:
    (line,) = mistakes(f"sweep.shard={shard}")
    assert line.startswith("sweep.shard=")
    assert "must be a part of a whole" in line


def test_part_counts_from_one() -> None:
    assert SweepConfig(shard="2/3").part == (2, 3)
    assert SweepConfig().part == (1, 1)


def test_keys_of_a_sweep_belong_to_sweeps() -> None:
    (line,) = mistakes("sweep.new=true", is_sweep=False)
    assert line == "sweep.new=true: says how a sweep goes, and this is none; add --multirun"
    (line,) = mistakes("sweep.nwe=true")
    assert line == "sweep.nwe=true: no such key; did you mean sweep.new?"


def test_an_interval_needs_a_search() -> None:
    (line,) = mistakes("training.learning_rate=interval(1e-4,1e-3)")
    assert line.startswith("training.learning_rate=interval(1e-4,1e-3): a grid needs a list of values")
    interval = "training.learning_rate=tag(log,interval(1e-4,1e-3))"
    assert compose_command([interval, *SEARCH], is_sweep=True).config.training.learning_rate == 1e-4
    assert len(mistakes("training.learning_rate=interval(-1e-4,1e-3)", *SEARCH)) == 1


def test_pruning_needs_evaluations() -> None:
    (line,) = mistakes(*SEARCH, "sweep.pruner=median", "evaluation.every_n_steps=null")
    assert line.startswith("sweep.pruner=median: nothing is evaluated")


def test_no_key_of_a_sweep_alters_numbers() -> None:
    assert not [key for key in numbers_relevant(compose()) if key.startswith("sweep")]
