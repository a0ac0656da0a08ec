from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from recipe_exp.config.data import DataConfig
from recipe_exp.data.contents import open_contents
from recipe_exp.data.readers.rows import Pair, Record, Rejection
from recipe_exp.errors import ConfigError, DataError
from recipe_exp.recipes.recipe import Recipe

SOURCE = """
from recipe_exp.data.readers.rows import Pair, Rejection
from recipe_exp.recipes.recipe import Recipe

def read_cards(path):
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if line == "broken":
            raise KeyError("no such card")
        if line == "bad":
            yield Rejection(str(path), number, "a bad card")
        elif line == "number":
            yield 3
        elif line == "pair":
            yield Pair("Soup?", "Boil.")
        elif line == "mapping":
            yield {"name": "Tea", "recipeIngredient": ["tea"], "steps": "Pour."}
        else:
            yield Recipe(line, ("1 leek",), ("Simmer.",))

read_cards.suffixes = (".card",)

class Reader:
    def __call__(self, path):
        yield Recipe(path.stem, ("1 leek",), ("Simmer.",))

not_callable = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "code" / "my_cards.py"
    path.parent.mkdir()
    path.write_text(SOURCE)
    monkeypatch.syspath_prepend(str(path.parent))
    monkeypatch.delitem(sys.modules, "my_cards", raising=False)
    importlib.invalidate_caches()
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "cards"
    folder.mkdir()
    (folder / "a.card").write_text("Leek Soup\nbad\nnumber\npair\nmapping\n")
    (folder / "b.txt").write_text("Other\n")
    return folder


def config(path: Path, name: str) -> DataConfig:
    return DataConfig(format=name, path=str(path))


def test_a_function_gives_recipes_pairs_mappings_and_rejections(module: Path, folder: Path, tmp_path: Path) -> None:
    rows = list(open_contents(config(folder, "my_cards:read_cards"), tmp_path).rows())
    file = str(folder / "a.card")
    assert rows == [
        Record(file, 1, Recipe("Leek Soup", ("1 leek",), ("Simmer.",))),
        Rejection(file, 2, "a bad card"),
        Rejection(file, 3, "the reader gave int, no recipe"),
        Record(file, 4, Pair("Soup?", "Boil.")),
        Record(file, 5, Recipe("Tea", ("tea",), ("Pour.",))),
    ]


def test_a_class_is_made_and_called_and_reads_every_file(module: Path, folder: Path, tmp_path: Path) -> None:
    rows = list(open_contents(config(folder, "my_cards:Reader"), tmp_path).rows())
    assert [row.content.title for row in rows if isinstance(row, Record) and isinstance(row.content, Recipe)] == [
        "a",
        "b",
    ]


def test_the_data_change_with_the_module_and_with_names(module: Path, folder: Path, tmp_path: Path) -> None:
    def fingerprint() -> str:
        sys.modules.pop("my_cards", None)
        return open_contents(config(folder, "my_cards:read_cards"), tmp_path).fingerprint

    first = fingerprint()
    assert fingerprint() == first
    module.write_text(SOURCE + "\n# Reads otherwise.\n")
    importlib.invalidate_caches()
    second = fingerprint()
    assert second != first
    (folder / "a.card").rename(folder / "c.card")
    assert fingerprint() != second


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("my_cards:nothing", "AttributeError: module 'my_cards' has no attribute 'nothing'"),
        ("my_cardz:read", "ModuleNotFoundError: No module named 'my_cardz'"),
        ("my_cards:not_callable", "cannot be called"),
    ],
)
def test_a_reader_that_is_none_is_one_line(
    module: Path, folder: Path, tmp_path: Path, name: str, expected: str
) -> None:
    with pytest.raises(ConfigError, match=f"data.format={name}: ") as error:
        open_contents(config(folder, name), tmp_path)
    assert expected in str(error.value)


def test_a_reader_that_fails_names_the_file(module: Path, folder: Path, tmp_path: Path) -> None:
    (folder / "a.card").write_text("Soup\nbroken\n")
    with pytest.raises(
        DataError, match=r"a\.card: data\.format=my_cards:read_cards failed with KeyError: 'no such card'"
    ):
        list(open_contents(config(folder, "my_cards:read_cards"), tmp_path).rows())


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("jsnl", "did you mean jsonl?"),
        ("xlsx", "choose from auto, jsonl, json"),
        ("a b:c", "choose from"),
        ("a:", "choose"),
    ],
)
def test_a_name_that_is_no_format_is_refused(name: str, remedy: str) -> None:
    with pytest.raises(ValueError, match="no such format") as error:
        DataConfig(format=name)
    assert remedy in str(error.value)
