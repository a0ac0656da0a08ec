"""`task=plan` from the command line to plan.json."""

from __future__ import annotations

import json

import pytest

from recipe_exp.__main__ import main
from recipe_exp.config.compose import compose
from recipe_exp.tasks import plan


def test_exit_code_and_file_tell_whether_it_fits(tmp_path, capsys):
    output = tmp_path / "plans" / "plan.json"
    card = ("hardware=rtx5090", "hardware.memory_gb=27")
    usual = ["task=plan", "model=flan_t5_xxl", "training=lora", *card, f"task.output={output}"]
    assert main([*usual, "model.gradient_checkpointing=false"]) == 1
    refused = json.loads(output.read_text())
    assert refused["fits"] is False
    assert refused["advice"][0]["overrides"] == ["model.gradient_checkpointing=true"]
    assert main(usual) == 0
    accepted = json.loads(output.read_text())
    assert accepted["fits"] is True
    assert accepted["peak_bytes"] == sum(accepted["parts"].values()) < refused["peak_bytes"]
    assert accepted["seconds_per_step"] > 0
    assert "does not fit" in capsys.readouterr().out


def test_without_an_output_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["task=plan", "model=flan_t5_base", "training=full", "hardware=rtx5090"]) == 0
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    arguments = ["task=plan", "model=flan_t5_base", "hardware=rtx5090", f"task.output={tmp_path}/file/plan.json"]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: task.output=")
    assert error.count("\n") == 1


@pytest.mark.parametrize(("overrides", "expected"), [(["data.max_examples=1000"], 960), ([], 9600)])
def test_generated_recipes_are_counted_without_generating_them(overrides, expected):
    config = compose(["task=plan", "hardware=rtx5090", *overrides])
    timing = plan.plan_run(config, plan.planned_device(config.hardware)).timing
    assert timing.steps_per_epoch == -(-expected // config.training.batch_size)
