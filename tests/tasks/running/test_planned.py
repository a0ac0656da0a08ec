"""The plan that a training run begins with: shown, kept, refused, and held against what came of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from recipe_exp.__main__ import main
from recipe_exp.config.compose import compose
from recipe_exp.planning.device import Gpu
from recipe_exp.tasks import plan as plan_task
from recipe_exp.tasks.running import planned
from recipe_exp.tasks.train import train

GIB = 1024**3


def test_a_run_keeps_its_plan_and_what_came_of_it(
    small_run: list[str], recipe_exp: Callable[..., Any], tmp_path: Path
) -> None:
    # A process of its own: the highest that memory ever was in this one may be another test's.
    ended = recipe_exp(small_run)
    assert ended.returncode == 0, ended.stderr
    (folder,) = (tmp_path / "outputs" / "runs").iterdir()
    plan = json.loads((folder / "plan.json").read_text())
    record = json.loads((folder / "run.json").read_text())
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert "\nplan  " in ended.stdout
    assert plan["fits"] is True
    assert plan["micro_batch_tokens"] == 2048
    assert plan["lengths"].endswith("examples of the token cache")
    memory = record["memory"]
    assert memory["planned_peak_bytes"] == plan["peak_bytes"] - plan["parts"]["overhead"]
    assert 0 < memory["planned_typical_peak_bytes"] <= memory["planned_peak_bytes"] < memory["actual_peak_bytes"]
    assert "resident memory" in memory["compared"]
    assert json.loads(lines[-1])["metrics"]["machinery/actual_peak_bytes"] == memory["actual_peak_bytes"]
    assert '"path":"plan.json"' in (folder / "journal.jsonl").read_text()


def test_a_later_plan_takes_the_speed_that_a_run_measured(small_run: list[str]) -> None:
    config = compose([*small_run, "run_name=first"])
    before = plan_task.plan_run(config, plan_task.planned_device(config.hardware))
    assert before.seconds_per_step is None
    train(config)
    after = plan_task.plan_run(config, plan_task.planned_device(config.hardware))
    assert after.timing.measured_by == "first"
    assert after.seconds_per_step is not None
    assert after.lengths.endswith("examples of the token cache")
    other = compose([*small_run, "training/optimizer=adafactor"])
    assert plan_task.plan_run(other, plan_task.planned_device(other.hardware)).seconds_per_step is None


@pytest.mark.parametrize("tokens", ["auto", "2048"])
def test_what_cannot_fit_is_refused_before_a_model_is_loaded(
    small_run: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tokens: str
) -> None:
    monkeypatch.setattr("recipe_exp.tasks.train.Workbench.build", lambda *_: pytest.fail("the model is loaded"))
    assert main([*small_run, f"hardware.micro_batch_tokens={tokens}", "hardware.memory_gb=0.4"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: hardware.")
    assert "take a smaller model" in error
    assert "hardware.on_oversize=warn" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("tokens", ["auto", "2048"])
def test_what_cannot_fit_is_tried_when_asked_for(
    small_run: list[str], capsys: pytest.CaptureFixture[str], tokens: str
) -> None:
    settings = [f"hardware.micro_batch_tokens={tokens}", "hardware.memory_gb=0.4", "hardware.on_oversize=warn"]
    assert train(compose([*small_run, *settings])).status == "finished"
    assert "warning: hardware.micro_batch_tokens=" in capsys.readouterr().out


def test_another_run_on_the_gpu_is_noticed(small_run: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose([*small_run, "hardware=rtx5090"])
    plan = plan_task.plan_run(config, plan_task.planned_device(config.hardware))
    machinery: Any = SimpleNamespace(device="cuda", device_name="NVIDIA GeForce RTX 5090", num_processes=2)
    cards = [Gpu("a", 32 * GIB, 31 * GIB, 12.0, ""), Gpu("b", 32 * GIB, GIB // 4, 12.0, "")]
    monkeypatch.setattr(planned, "visible_gpus", lambda: cards)
    problem = planned._problem(plan, config, machinery)
    assert problem is not None
    assert "256 MiB of the GPU are free at present" in problem
    machinery.num_processes = 1
    assert planned._problem(plan, config, machinery) is None


def test_another_card_than_the_named_one_is_told_in_a_line(small_run: list[str]) -> None:
    config = compose([*small_run, "hardware=rtx5090"])
    machinery = cast(Any, SimpleNamespace(device="cuda", device_name="NVIDIA RTX 4000", memory_bytes=20 * GIB))
    (line,) = planned._card_warnings(config, machinery)
    assert line.startswith("hardware.card=RTX 5090: this machine has NVIDIA RTX 4000 with 20.0 GiB")
    machinery.device_name = "NVIDIA GeForce RTX 5090"
    assert not list(planned._card_warnings(config, machinery))


def test_a_named_card_without_a_gpu_is_one_line(small_run: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*[line for line in small_run if line != "hardware=cpu"], "hardware=rtx5090"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: hardware.device=cuda: PyTorch sees no GPU")
    assert error.count("\n") == 1


def test_a_continued_run_has_a_plan_too(small_run: list[str]) -> None:
    first = train(compose([*small_run, "training.max_steps=4", "training/schedule=constant"]))
    assert isinstance(first.folder, Path)
    (first.folder / "plan.json").unlink()
    again = [*small_run, "training.max_steps=6", "training/schedule=constant", "resume=latest"]
    assert train(compose(again)).status == "finished"
    assert json.loads((first.folder / "plan.json").read_text())["fits"] is True
