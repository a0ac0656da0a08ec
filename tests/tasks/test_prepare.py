"""`task=prepare`: the cache that training opens."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest

from recipe_exp.__main__ import main
from recipe_exp.data.sample import sample_recipes

NUM_RECIPES = 500
SHAPE = ("model.shape.vocab_size=700", "hardware=cpu", "hardware.num_threads=1", "hardware.num_workers=2")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recipes with duplicates and lines that are rejected."""
    recipes = [
        {"title": recipe.title, "ingredients": list(recipe.ingredients), "instructions": list(recipe.instructions)}
        for recipe in islice(sample_recipes(), NUM_RECIPES)
    ]
    lines = [json.dumps(recipe) for recipe in [*recipes, *recipes[:50]]]
    lines[10:10] = ["{", '{"title": "Toast"}']
    path = tmp_path_factory.mktemp("corpus") / "recipes.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def arguments(corpus: Path, output_dir: Path) -> list[str]:
    return ["task=prepare", "data=jsonl", f"data.path={corpus}", f"output_dir={output_dir}", *SHAPE]


def test_it_says_what_it_found_and_where_the_cache_lies(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(corpus, tmp_path)) == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("data  4")
    assert "2 rejected" in first
    assert "50 duplicates" in first
    word, folder = last.split(maxsplit=1)
    assert (word, Path(folder).parent) == ("cache", tmp_path / "cache")
    assert (Path(folder) / "card.json").is_file()
    before = (Path(folder) / "card.json").stat().st_mtime_ns
    assert main(arguments(corpus, tmp_path)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == last
    assert (Path(folder) / "card.json").stat().st_mtime_ns == before, "it was built again"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache"]


def test_training_opens_what_was_prepared(small_run: list[str], tmp_path: Path) -> None:
    own_cache = f"data.cache_dir={tmp_path / 'cache'}"
    assert main([*small_run, own_cache, "task=prepare"]) == 0
    (folder,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert main([*small_run, own_cache, "training.max_steps=3"]) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert [path for path in (tmp_path / "cache").iterdir() if path.is_dir()] == [folder]


def test_a_mistake_exits_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.jsonl").write_text('{"title": "Toast"}\n' * 20)
    assert main(arguments(tmp_path / "bad.jsonl", tmp_path / "outputs")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "20 of 20 records were rejected" in line
