"""Full tuning in little memory through the one door: it learns, it resumes bit for bit, and its model can be used."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_runs import StopAt, again, final_state, folder_of, record_of, run

import recipe_exp

OPTIONS = ["full_bf16", "full_8bit", "full_low_memory"]
needs_bitsandbytes = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="an optional extra")
each = pytest.mark.parametrize(
    "option", [pytest.param(name, marks=needs_bitsandbytes if "8bit" in name else ()) for name in OPTIONS]
)


@pytest.fixture
def small_run(small_run: list[str]) -> list[str]:
    own = (
        *("training.learning_rate=0.02", "training.log_every_n_steps=1", "model.dropout=0.1"),
        "hardware.micro_batch_tokens=auto",
    )
    return [*small_run, *own]


def losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["metrics"]["train/loss"] for line in lines if "train/loss" in line["metrics"]]


@pytest.mark.long
@each
def test_a_run_that_was_stopped_ends_bit_for_bit_like_one_that_was_not(small_run: list[str], option: str) -> None:
    command = [*small_run, f"training={option}"]
    whole = folder_of(run(command))
    parted = folder_of(run(command, StopAt(3)))
    assert run(again(parted)).status == "finished"
    assert final_state(parted) == final_state(whole)
    assert losses(parted) == losses(whole)


@pytest.mark.slow
@each
def test_it_learns_and_what_it_learnt_can_be_used(small_run: list[str], option: str) -> None:
    folder = folder_of(run([*small_run, f"training={option}", "training.max_steps=24"]))
    found = losses(folder)
    assert sum(found[-4:]) < 0.9 * sum(found[:4])
    weights = load_file(folder / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert isinstance(recipe_exp.load(folder).generate(["Write a recipe for pancakes."])[0], str)


def test_the_window_is_one_micro_batch_whatever_its_lengths(small_run: list[str]) -> None:
    folder = folder_of(run([*small_run, "training=full_low_memory", "training.batch_size=32"]))
    record = record_of(folder)
    # As many as 32 of the longest source and the longest target, of which the test data have fewer than 250.
    assert record["machinery"]["micro_batch_tokens"] % 32 == 0
    assert record["status"] == "finished"


def test_without_bitsandbytes_one_line_says_so(
    small_run: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from recipe_exp.__main__ import main

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "bitsandbytes" else found(name))
    monkeypatch.setattr("recipe_exp.tasks.checks.find_spec", importlib.util.find_spec)
    assert main([*small_run, "training=full_8bit"]) == 2
    assert "pip install 'recipe-exp[quantized]'" in capsys.readouterr().err
