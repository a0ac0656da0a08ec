from __future__ import annotations

from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from recipe_exp.config.compose import compose
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.errors import ConfigError
from recipe_exp.sweeping.grid import Trial, plan_trials, swept_values


@pytest.fixture(scope="module")
def config() -> ExperimentConfig:
    return compose()


def test_trials_are_named_after_what_varies() -> None:
    trials = plan_trials(
        [["training.learning_rate=1e-3", "model=t5_tiny"], ["training.learning_rate=1e-2", "model=t5_tiny"]]
    )
    assert [trial.name for trial in trials] == ["learning_rate=1e-3", "learning_rate=1e-2"]
    assert [trial.number for trial in trials] == [1, 2]
    assert [trial.config.training.learning_rate for trial in trials] == [1e-3, 1e-2]
    assert swept_values(trials) == {"training.learning_rate": ["1e-3", "1e-2"]}


def test_a_single_trial_and_a_named_one_keep_their_names() -> None:
    (single,) = plan_trials([["seed=1"]])
    assert (single.name, single.run_name_override) == ("", ())
    named = plan_trials([["seed=1", "run_name=mine"], ["seed=2", "run_name=mine"]])
    assert [trial.run_name_override for trial in named] == [(), ()]


def test_mistake_of_all_trials_is_reported_once_and_one_of_some_says_of_which() -> None:
    grid = [
        [f"training.learning_rate={rate}", f"training={training}", "training.adapter.rank=4", "seed=-x"]
        for rate in ("1e-3", "1e-2")
        for training in ("lora", "full")
    ]
    with pytest.raises(ConfigError) as caught:
        plan_trials(grid)
    mistakes = caught.value.mistakes
    assert len(mistakes) == 2
    assert len([line for line in mistakes if line.startswith("seed=-x: ")]) == 1
    assert len([line for line in mistakes if line.startswith("with training=full: training.adapter.rank=4: ")]) == 1


def test_trials_are_recorded_in_one_place() -> None:
    with pytest.raises(ConfigError) as caught:
        plan_trials([["output_dir=here"], ["output_dir=there"]])
    (mistake,) = caught.value.mistakes
    assert mistake.startswith("output_dir=here,there: ")


def test_an_empty_grid_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="no trials"):
        plan_trials([])


@given(st.text(st.characters(min_codepoint=32, exclude_categories=["C", "Z"]), min_size=1))
def test_run_name_is_read_back_as_it_was_meant(config: ExperimentConfig, value: str) -> None:
    trial = Trial(1, (), {"data.prompt": value}, config)
    ((override),) = trial.run_name_override
    parsed: Any = OverridesParser.create().parse_override(override).value()
    assert parsed == "prompt=" + "".join(character for character in value if character not in "'\"\\${}")
