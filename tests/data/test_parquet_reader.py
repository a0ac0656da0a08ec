from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from recipe_exp.data.readers.parquet import read_parquet
from recipe_exp.data.readers.rows import Pair, Record, Rejection, Row
from recipe_exp.errors import DataError
from recipe_exp.recipes.recipe import Recipe


def rows_of(tmp_path: Path, columns: dict[str, list[Any]]) -> list[Row]:
    path = tmp_path / "recipes.parquet"
    parquet.write_table(pyarrow.table(columns), path, row_group_size=2)
    return list(read_parquet(path))


def test_columns_of_lists_and_of_texts_are_read(tmp_path: Path) -> None:
    rows = rows_of(
        tmp_path,
        {
            "Name": ["Leek Soup", "Tea", None],
            "RecipeIngredientParts": [["3 leeks", None], ["tea"], None],
            "steps": ["['Cut.', 'Simmer.']", "Pour.\nDrink.", None],
            "quality_score": [0.5, None, None],
            "picture": [b"\x00", b"", b""],
        },
    )
    assert rows[:2] == [
        Record(rows[0].file, 1, Recipe("Leek Soup", ("3 leeks",), ("Cut.", "Simmer."), 0.5)),
        Record(rows[0].file, 2, Recipe("Tea", ("tea",), ("Pour.", "Drink."))),
    ]
    assert isinstance(rows[2], Rejection)
    assert rows[2].line_number == 3


def test_pairs_are_read(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, {"input": ["Soup?"], "output": ["Boil."]})
    assert isinstance(row, Record)
    assert row.content == Pair("Soup?", "Boil.")


def test_a_wrong_type_is_a_reason(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, {"title": [1], "ingredients": ["a"], "instructions": ["b"]})
    assert isinstance(row, Rejection)
    assert row.reason == "title: expected str, got int"


def test_a_table_of_something_else_is_refused_with_its_columns(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the columns are called a, b; name them"):
        rows_of(tmp_path, {"a": [1], "b": [2]})


@pytest.mark.parametrize("content", [b"PAR1", b"PAR1" + b"\xff" * 100 + b"PAR1", b"", b"text"])
def test_a_damaged_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "recipes.parquet"
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as Parquet") as error:
        list(read_parquet(path))
    assert "\n" not in str(error.value)


def test_a_file_that_was_cut_is_one_line(tmp_path: Path) -> None:
    rows_of(tmp_path, {"title": ["a"] * 9, "ingredients": ["b"] * 9, "instructions": ["c"] * 9})
    path = tmp_path / "recipes.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:40] + b"\xff" * 60 + content[100:])
    with pytest.raises(DataError):
        list(read_parquet(path))
