"""`task=validate_metrics` through the one door."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipe_exp.__main__ import main
from recipe_exp.metrics import RECIPE_METRICS, Fault

DATA = ("data.max_examples=150", "data.validation_fraction=0.2", "hardware.num_workers=1")


def test_it_prints_and_saves_the_matrix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = [f"output_dir={tmp_path}", f"data.cache_dir={tmp_path / 'cache'}"]
    assert main(["task=validate_metrics", "task.max_recipes=12", *places, *DATA]) == 0
    matrix = json.loads((tmp_path / "metric_validation.json").read_text())
    assert matrix.keys() == set(Fault)
    assert {"auc", "low", "high", "n", "intended"} <= matrix["truncated"]["clean_ending"].keys()
    out = capsys.readouterr().out
    assert all(metric.name in out for metric in RECIPE_METRICS)
    assert f"{matrix['truncated']['clean_ending']['auc']:.2f}" in out
    assert out.splitlines()[-1] == f"saved {tmp_path / 'metric_validation.json'}"
    assert len(list((tmp_path / "cache").glob("knowledge-*.json"))) == 1


def test_nothing_held_out_is_a_mistake_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held_out = ["data.validation_fraction=0", "data.test_fraction=0", "evaluation.every_n_steps=null"]
    code = main(["task=validate_metrics", f"output_dir={tmp_path}", "data.max_examples=20", *held_out])
    assert code == 2
    assert "raise data.validation_fraction" in capsys.readouterr().err
