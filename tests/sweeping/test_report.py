from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from recipe_exp.config.compose import compose
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.sweeping.grid import Trial
from recipe_exp.sweeping.outcomes import Best, Outcome
from recipe_exp.sweeping.report import write_summary


@pytest.fixture(scope="module")
def config() -> ExperimentConfig:
    return compose()


def outcome_of(
    config: ExperimentConfig, number: int, value: float, metric: str = "eval/loss", **fields: Any
) -> Outcome:
    trial = Trial(number, (f"seed={number}",), {"seed": str(number)}, config)
    values = {"state": "done", "exit_code": 0, "best": Best(metric, value, 7)} | fields
    return Outcome(trial, **values)


def test_summary_is_strict_json_and_holds_what_has_ended(config: ExperimentConfig, tmp_path: Path) -> None:
    ended = outcome_of(config, 1, math.inf)
    trials = [ended.trial, outcome_of(config, 2, 0.1).trial]
    path = tmp_path / "sweep.json"
    write_summary(path, "id", trials, {1: ended})
    summary = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert summary["swept"] == {"seed": ["1", "2"]}
    assert [trial["trial"] for trial in summary["trials"]] == [1]
    assert summary["trials"][0]["best"] == {"metric": "eval/loss", "value": None, "step": 7}
    assert summary["best_trial"] is None
