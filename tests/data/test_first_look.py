"""What is known of data before a run: everything of a little, the beginning of much."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recipe_exp.config.data import DataConfig
from recipe_exp.data import first_look
from recipe_exp.data.first_look import look_at
from recipe_exp.errors import DataError

GOOD = "".join(
    json.dumps({"title": f"Soup {n}", "ingredients": [f"{n} onions"], "instructions": ["Boil."]}) + "\n"
    for n in range(200)
)


def section(path: Path, **changes: object) -> DataConfig:
    return DataConfig.model_validate({"format": "jsonl", "path": str(path), "validation_fraction": 0.1, **changes})


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_good_data_passes_and_nothing_is_left(tmp_path: Path) -> None:
    file = written(tmp_path / "recipes.jsonl", GOOD)
    look_at(section(file))
    look_at(section(tmp_path))
    look_at(section(file, format="auto"))
    look_at(section(file, max_examples=20))
    assert [path.name for path in tmp_path.iterdir()] == ["recipes.jsonl"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x\n" * 50, "50 of 50 records were rejected"),
        (GOOD + "x\n" * 50, "50 of 250 records were rejected"),
        ("\n\n", "no usable record"),
        (GOOD.splitlines(keepends=True)[0] * 50, "split holds no recipe"),
        ("version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    ],
)
def test_little_data_is_known_whole(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        look_at(section(written(tmp_path / "recipes.jsonl", text)))


def test_much_data_is_only_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad beginning says nothing of the rest, so it is no reason to refuse."""
    monkeypatch.setattr(first_look, "MAX_ROWS", 20)
    look_at(section(written(tmp_path / "a.jsonl", "x\n" * 30 + GOOD)))
    with pytest.raises(DataError, match="20 of 20 records were rejected"):
        look_at(section(written(tmp_path / "b.jsonl", "x\n" * 20)))


def test_time_bounds_the_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_look, "MAX_SECONDS", 0.0)
    look_at(section(written(tmp_path / "a.jsonl", "x\n" * 30)))


def test_enough_examples_end_the_look(tmp_path: Path) -> None:
    file = written(tmp_path / "a.jsonl", GOOD + "x\n" * 5000)
    look_at(section(file, max_examples=150))


def test_many_files_are_not_all_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_look, "MAX_FILES", 3)
    for number in range(5):
        written(tmp_path / f"{number}.jsonl", "x\n")
    look_at(section(tmp_path))
    with pytest.raises(DataError, match="1 of 1 records were rejected"):
        look_at(section(tmp_path / "0.jsonl"))


def test_what_is_not_on_this_machine_is_not_looked_at() -> None:
    look_at(DataConfig(format="sample", max_examples=10))
    look_at(DataConfig(format="huggingface", path="nobody/nothing"))
    look_at(DataConfig(format="my_reader:read", path="anywhere"))


def test_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "recipes.jsonl")
    with pytest.raises(DataError, match="is no regular file"):
        look_at(section(tmp_path / "recipes.jsonl"))


def test_looking_loads_no_pytorch() -> None:
    code = "import sys, recipe_exp.data.first_look\nprint({'torch', 'transformers'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
