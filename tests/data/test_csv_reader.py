from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe_exp.data.readers.cells import list_in, split_ingredients
from recipe_exp.data.readers.csv import read_csv
from recipe_exp.data.readers.rows import Pair, Record, Rejection, Row
from recipe_exp.errors import DataError
from recipe_exp.recipes.recipe import Recipe

HEADER = "title,ingredients,directions\n"
SOUP = 'Leek Soup,"[""3 leeks"", ""water""]","[""Simmer.""]"\n'
SOUP_RECIPE = Recipe("Leek Soup", ("3 leeks", "water"), ("Simmer.",))


def rows_of(tmp_path: Path, content: str | bytes) -> list[Row]:
    path = tmp_path / "recipes.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_csv(path))


def only(rows: list[Row]) -> Recipe | Pair:
    (row,) = rows
    assert isinstance(row, Record)
    return row.content


def reasons(rows: list[Row]) -> list[str | None]:
    return [row.reason if isinstance(row, Rejection) else None for row in rows]


def test_rows_have_the_line_in_which_they_begin(tmp_path: Path) -> None:
    broken = 'Stew,"[""1 egg""]","Cut.\nBoil."\n'
    rows = rows_of(tmp_path, HEADER + broken + "\n" + SOUP)
    assert [(type(row), row.line_number) for row in rows] == [(Record, 2), (Rejection, 4), (Record, 5)]
    assert reasons(rows) == [None, "blank line", None]


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_the_mark_between_cells_is_found(tmp_path: Path, delimiter: str) -> None:
    text = io.StringIO()
    rows = [["Name", "Ingredients", "Instructions"], ["Leek Soup", '["3 leeks", "water"]', "Simmer."]]
    csv.writer(text, delimiter=delimiter).writerows(rows)
    assert only(rows_of(tmp_path, text.getvalue())) == SOUP_RECIPE


def test_a_pair_is_read_as_a_pair_with_its_score(tmp_path: Path) -> None:
    assert only(rows_of(tmp_path, 'input,output,quality_score\nSoup?,"Boil.\nEat.",0.5\n')) == Pair(
        "Soup?", "Boil.\nEat.", 0.5
    )
    assert only(rows_of(tmp_path, "input,output,quality_score\nSoup?,Boil.,\n")) == Pair("Soup?", "Boil.", None)


def test_of_two_columns_with_one_name_the_first_counts(tmp_path: Path) -> None:
    assert only(rows_of(tmp_path, "title,Title,ingredients,steps\nLeek Soup,x,3 leeks,Simmer.\n")) == Recipe(
        "Leek Soup", ("3 leeks",), ("Simmer.",)
    )


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"a,b\n", "other number of cells than columns"),
        (b"a,b,c,d\n", "other number of cells than columns"),
        (b'a,"b\xff",c\n', "not UTF-8"),
        (b"a,b\0,c\n", "NUL bytes"),
        (b"a,b," + b"x" * 2**18 + b"\n", "cell over 128 KiB"),
        (b'a,"b", "c\rd\n', "not valid CSV"),
    ],
)
def test_a_bad_row_costs_only_itself(tmp_path: Path, row: bytes, reason: str) -> None:
    rows = rows_of(tmp_path, HEADER.encode() + row + SOUP.encode())
    assert reasons(rows) == [reason, None]
    assert rows[0].line_number == 2


def test_a_cell_that_never_ends_is_given_up(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, HEADER + 'a,"b,c\n' + "Soup,leeks,Simmer.\n" * 20_000)
    assert reasons(rows)[0] == "cell over 128 KiB"
    assert set(reasons(rows)[1:]) == {None}
    assert len(rows) > 10_000


def test_a_quote_too_many_costs_the_rows_around_it(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, HEADER + 'a,"b,c\n' + SOUP * 50)
    assert len([row for row in rows if isinstance(row, Record)]) >= 48


@pytest.mark.parametrize("header", ["", "a,b,c\n", "title,link\n", "\n\n", "x" * 200_000 + "\n", '"a\n'])
def test_a_table_of_something_else_is_refused_with_its_columns(tmp_path: Path, header: str) -> None:
    with pytest.raises(DataError, match=r"the columns are called .*; name them title, ingredients") as error:
        rows_of(tmp_path, header)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ('["a", "b\\u00b0"]', ["a", "b°"]),
        ("['a', \"don't\"]", ["a", "don't"]),
        ("['a' 'b'\n 'c']", ["a", "b", "c"]),
        ("['it\\'s', 'x\\ny']", ["it's", "x\ny"]),
        ('c("a", "b \\"c\\"", NA)', ["a", 'b "c"']),
        ('c("a\nb",\n"c")', ["a\nb", "c"]),
        ('"alone"', ["alone"]),
        ("character(0)", []),
        ("NA", []),
        ("[]", []),
        ('["a", null, "b"]', ["a", "b"]),
        ("plain text", None),
        ("[not a list]", None),
        ("c(1, 2)", None),
        ("['a', 3]", None),
        ('"Yes", he said, "no"', None),
        ("['unclosed]", None),
        ("['a', '\\N{nothing}']", None),
    ],
)
def test_lists_in_cells(text: str, items: list[str] | None) -> None:
    assert list_in(text) == items


@given(st.lists(st.text(max_size=12), max_size=6))
def test_what_python_and_json_print_is_read_back(items: list[str]) -> None:
    assert list_in(repr(items)) == items
    assert list_in(json.dumps(items)) == items


@settings(max_examples=300)
@given(st.text(st.sampled_from("[]c(\"'\\, NAx\n"), max_size=30) | st.text(max_size=30))
def test_no_cell_raises(text: str) -> None:
    items = list_in(text)
    assert items is None or all(isinstance(item, str) for item in items)


@pytest.mark.parametrize(
    ("line", "ingredients"),
    [
        ("sugar, salt and pepper, milk", ["sugar", "salt and pepper", "milk"]),
        ("2 eggs, beaten, 1 cup flour, ½ tsp salt", ["2 eggs, beaten", "1 cup flour", "½ tsp salt"]),
        ("1 egg; 2 apples", ["1 egg", "2 apples"]),
        ("butter (soft, salted), flour", ["butter (soft, salted)", "flour"]),
        ("1 onion, chopped", ["1 onion, chopped"]),
        ("1,5 kg beef", ["1,5 kg beef"]),
        ("flour", ["flour"]),
    ],
)
def test_ingredients_that_share_a_line(line: str, ingredients: list[str]) -> None:
    assert split_ingredients(line) == ingredients
