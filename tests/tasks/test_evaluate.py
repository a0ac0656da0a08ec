"""Models and files of predictions, scored from the command's own entry."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import recipe_exp
from recipe_exp.config.compose import compose
from recipe_exp.errors import DataError
from recipe_exp.evaluation.anchors import COPIED, NEAREST, RANDOM
from recipe_exp.metrics.predictions import read_predictions
from recipe_exp.tasks.evaluate import run
from recipe_exp.tasks.train import TrainResult, train


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("evaluate")
    return [f"output_dir={folder / 'outputs'}", f"data.cache_dir={folder / 'cache'}"]


@pytest.fixture(scope="module")
def trained(places: list[str], small_settings: list[str]) -> TrainResult:
    result = train(compose([*small_settings, *places, "tracking=journal_only"]))
    assert result.status == "finished"
    return result


def evaluate(places: Sequence[str], *overrides: str) -> int:
    return run(compose(["task=evaluate", "hardware=cpu", "hardware.num_threads=1", *places, *overrides]))


def numbers(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def folder_of(result: TrainResult) -> Path:
    assert result.folder is not None
    return result.folder


def test_a_run_ends_with_its_report(trained: TrainResult) -> None:
    folder = folder_of(trained)
    content = numbers(folder / "evaluation.json")
    assert list(content["anchors"]) == [RANDOM, NEAREST, COPIED]
    assert content["metrics"]["loss"]["value"] == pytest.approx(trained.metrics["eval/loss"])
    for name in ("bleu", "rougeL", "ingredient_coherence"):
        found = content["metrics"][name]
        assert found["value"] == pytest.approx(trained.metrics[f"eval/{name}"])
        assert found["low"] <= found["value"] <= found["high"]
    page = (folder / "report.html").read_text()
    assert "Metrics against anchors" in page
    assert "Over the run" in page
    journal = (folder / "journal.jsonl").read_text()
    assert "report.html" in journal
    assert "evaluation.json" in journal


def test_predictions_of_the_best_and_the_last_step_are_kept(trained: TrainResult) -> None:
    files = sorted(path.name for path in (folder_of(trained) / "predictions").iterdir())
    assert trained.best is not None
    assert f"step-{trained.best['step']:08}.jsonl" in files
    assert files[-1] == "step-00000008.jsonl"
    assert len(files) <= 2


def test_a_run_is_scored_as_it_scored_itself(trained: TrainResult, places: list[str]) -> None:
    assert evaluate(places) == 0
    folder = folder_of(trained)
    content = numbers(folder / "evaluation-validation.json")
    own = numbers(folder / "evaluation.json")
    for name, expected in own["metrics"].items():
        assert content["metrics"][name]["value"] == pytest.approx(expected["value"], rel=1e-4), name
    assert content["anchors"] == own["anchors"]
    assert (folder / "evaluation-validation.html").stat().st_size > 10_000
    best = folder / "predictions" / f"step-{own['step']:08}.jsonl"
    assert read_predictions(folder / "evaluation-validation.jsonl") == read_predictions(best)


def test_a_checkpoint_and_a_plain_folder_are_scored(trained: TrainResult, places: list[str], tmp_path: Path) -> None:
    own = numbers(folder_of(trained) / "evaluation.json")
    for name in ("model", "checkpoints/step-00000008"):
        output = tmp_path / "out" / "e.json"
        assert evaluate(places, f"task.run={folder_of(trained) / name}", f"task.output={output}") == 0
        assert output.with_suffix(".html").is_file()
        if name == "model":
            assert numbers(output)["metrics"]["loss"]["value"] == pytest.approx(own["metrics"]["loss"]["value"])


def test_other_recipes_are_scored_whole(trained: TrainResult, places: list[str], tmp_path: Path) -> None:
    data, output = tmp_path / "other.jsonl", tmp_path / "other.json"
    recipes = [recipe for recipe, _ in zip(recipe_exp.sample_recipes(seed=9), range(12), strict=False)]
    lines = [
        json.dumps(
            {"title": each.title, "ingredients": list(each.ingredients), "instructions": list(each.instructions)}
        )
        for each in recipes
    ]
    data.write_text("\n".join(lines))
    chosen = [f"data.path={data}", "data.format=jsonl", "task.split=all", "data.duplicates=keep"]
    assert evaluate(places, *chosen, "evaluation.max_generated_examples=99", f"task.output={output}") == 0
    written = read_predictions(output.with_suffix(".jsonl"))
    assert sorted(each.title for each in written) == sorted(each.title for each in recipes)


def test_a_file_of_predictions_needs_no_model(places: list[str], tmp_path: Path) -> None:
    reference = "**Toast**\n\n**Ingredients:**\n- bread\n- butter\n- salt\n\n**Instructions:**\n1. Toast the bread."
    rows = [{"prompt": f"Toast {row}", "reference": reference, "prediction": reference[: 40 + row]} for row in range(9)]
    path, output = tmp_path / "p.jsonl", tmp_path / "p.json"
    path.write_text("\n".join(map(json.dumps, rows)))
    before = path.read_bytes()
    assert evaluate(places, f"task.run={path}", f"task.output={output}") == 0
    assert path.read_bytes() == before
    content = numbers(output)
    assert "loss" not in content["metrics"]
    assert content["num_examples"] == 9
    assert list(content["anchors"]) == [COPIED]


def test_a_damaged_file_of_predictions_is_one_line(places: list[str], tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": 1}')
    with pytest.raises(DataError, match=r"p\.jsonl:1: "):
        evaluate(places, f"task.run={path}", f"task.output={tmp_path / 'p.json'}")


def test_runs_on_the_same_examples_stand_beside_each_other(
    trained: TrainResult, places: list[str], small_settings: list[str]
) -> None:
    second = train(compose([*small_settings, *places, "tracking=journal_only", "training.learning_rate=1e-4"]))
    content = numbers(folder_of(second) / "evaluation.json")
    (name,) = content["other_runs"]
    assert json.loads((folder_of(trained) / "run.json").read_text())["run_id"] in name
    assert "Beside other runs" in (folder_of(second) / "report.html").read_text()
