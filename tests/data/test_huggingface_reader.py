from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pyarrow
import pytest

from recipe_exp.config.data import DataConfig
from recipe_exp.data.contents import open_contents
from recipe_exp.data.readers.huggingface import find_dataset, read_arrow
from recipe_exp.data.readers.rows import Record
from recipe_exp.errors import DataError
from recipe_exp.recipes.recipe import Recipe


def write_arrow(path: Path, records: list[dict[str, Any]]) -> Path:
    table = pyarrow.Table.from_pylist(records)
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return path


def record(number: int) -> dict[str, Any]:
    return {"title": f"Soup {number}", "ingredients": ["1 leek"], "directions": ["Simmer."], "other": number}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A stand-in for the library, which the tests need not have."""
    module = ModuleType("datasets")
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


def test_every_split_is_read_and_hashed_like_any_file(tmp_path: Path, hub: ModuleType) -> None:
    files = [
        write_arrow(tmp_path / f"{name}.arrow", [record(number) for number in range(start, start + 5)])
        for name, start in (("train", 0), ("test", 5))
    ]
    asked: list[Any] = []

    def load_dataset(name: str, configuration: str | None, *, revision: str | None) -> dict[str, Any]:
        asked.append((name, configuration, revision))
        return {str(file): SimpleNamespace(cache_files=[{"filename": str(file)}]) for file in files}

    hub.load_dataset = load_dataset  # type: ignore[attr-defined]
    config = DataConfig(format="huggingface", path="owner/soups:small@main")
    contents = open_contents(config, tmp_path)
    rows = list(contents.rows())
    assert asked == [("owner/soups", "small", "main")]
    assert [row.content.title for row in rows if isinstance(row, Record) and isinstance(row.content, Recipe)] == [
        f"Soup {number}" for number in range(10)
    ]
    assert [row.line_number for row in rows] == [1, 2, 3, 4, 5] * 2
    assert open_contents(config, tmp_path).fingerprint == contents.fingerprint
    write_arrow(files[1], [record(99)])
    assert open_contents(config, tmp_path).fingerprint != contents.fingerprint


def test_a_dataset_that_cannot_be_had_is_one_line(hub: ModuleType) -> None:
    def load_dataset(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach 'owner/soups' on the Hub (offline)\nwith a second line")

    hub.load_dataset = load_dataset  # type: ignore[attr-defined]
    with pytest.raises(DataError) as error:
        find_dataset("owner/soups")
    message = "cannot be loaded (Couldn't reach 'owner/soups' on the Hub (offline)); check the name and the connection"
    assert str(error.value) == f"data.path=owner/soups: {message}"


def test_without_the_library_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="needs the package datasets; pip install datasets"):
        find_dataset("owner/soups")


def test_the_library_itself_reads_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    folder = tmp_path / "soups"
    folder.mkdir()
    line = '{"title": "Soup", "ingredients": ["1 leek"], "directions": ["Simmer."]}\n'
    (folder / "train.jsonl").write_text(line)
    (row,) = open_contents(DataConfig(format="huggingface", path=str(folder)), tmp_path).rows()
    assert isinstance(row, Record)
    assert row.content == Recipe("Soup", ("1 leek",), ("Simmer.",))


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "data.arrow"
    path.write_bytes(b"no arrow")
    with pytest.raises(DataError, match="cannot be read") as error:
        list(read_arrow(path))
    assert "\n" not in str(error.value)


def test_library_that_runs_a_datasets_code_is_refused(hub: ModuleType) -> None:
    hub.__version__ = "3.6.0"  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"datasets 3\.6\.0 runs a dataset's own code; pip install 'datasets>=4'"):
        find_dataset("owner/soups")
