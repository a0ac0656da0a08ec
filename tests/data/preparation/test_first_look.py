"""What is known of data before a run: everything of a little, the beginning of much."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest

from recipe_exp.__main__ import main
from recipe_exp.config.data import DataConfig
from recipe_exp.data.preparation import first_look
from recipe_exp.data.preparation.first_look import look_at
from recipe_exp.data.preparation.intake import Intake
from recipe_exp.errors import DataError

FORMATS = Path(__file__).parents[1] / "formats"
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
    file = written(tmp_path / "a.jsonl", "x\n" * 30)
    monkeypatch.setattr(first_look, "MAX_SECONDS", 0.0)
    look_at(section(file))
    monkeypatch.setattr(first_look, "MAX_SECONDS", 60.0)
    with pytest.raises(DataError, match="30 of 30 records were rejected"):
        look_at(section(file))


def test_enough_examples_end_the_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_look, "MAX_SECONDS", 60.0)
    file = written(tmp_path / "a.jsonl", GOOD + "x\n" * 500)
    look_at(section(file, max_examples=150))
    with pytest.raises(DataError, match="500 of 700 records were rejected"):
        look_at(section(file))


def test_many_files_are_not_all_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_look, "MAX_FILES", 3)
    for number in range(5):
        written(tmp_path / f"{number}.jsonl", "x\n")
    look_at(section(tmp_path))
    with pytest.raises(DataError, match="1 of 1 records were rejected"):
        look_at(section(tmp_path / "0.jsonl"))


def test_what_is_made_or_read_by_other_code_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_: DataConfig) -> Intake:
        raise AssertionError("looked at")

    monkeypatch.setattr(first_look, "Intake", never)
    look_at(DataConfig(format="sample", max_examples=10))
    look_at(DataConfig(format="my_reader:read", path="anywhere"))
    with pytest.raises(AssertionError, match="looked at"):
        look_at(section(FORMATS / "mixed.jsonl"))


def test_a_dataset_of_the_hub_that_cannot_be_had_leaves_no_run(
    small_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("datasets")
    assert main([*small_run, "data=huggingface", "data.path=nobody/nothing"]) != 0
    said = capsys.readouterr().err.strip()
    assert "data.path=nobody/nothing: cannot be loaded" in said
    assert "\n" not in said
    assert not (tmp_path / "outputs").exists()


def test_rows_of_a_dataset_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "train.arrow"
    table = pyarrow.table({"title": ["", ""], "ingredients": [[], []], "directions": [[], []]})
    with pyarrow.OSFile(str(file), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    monkeypatch.setattr("recipe_exp.data.contents.find_dataset", lambda _: [file])
    with pytest.raises(DataError, match="2 of 2 records were rejected"):
        look_at(DataConfig(format="huggingface", path="owner/soups"))


def test_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "recipes.jsonl")
    with pytest.raises(DataError, match="is no regular file"):
        look_at(section(tmp_path / "recipes.jsonl"))


def test_looking_loads_no_pytorch() -> None:
    code = "import sys, recipe_exp.data.preparation.first_look\nprint({'torch', 'transformers'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
