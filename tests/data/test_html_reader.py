from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipe_exp.data.readers.html import read_html
from recipe_exp.data.readers.rows import Record, Rejection, Row
from recipe_exp.recipes.recipe import Recipe

SOUP = {"@type": "Recipe", "name": "Leek Soup", "recipeIngredient": ["3 leeks"], "recipeInstructions": ["Simmer."]}
SOUP_RECIPE = Recipe("Leek Soup", ("3 leeks",), ("Simmer.",))
SCRIPT = '<script type="application/ld+json">{}</script>'


def rows_of(tmp_path: Path, content: str | bytes) -> list[Row]:
    path = tmp_path / "page.html"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_html(path))


@pytest.mark.parametrize(
    "script",
    [
        SCRIPT.format("{}"),
        "<script data-x='1' TYPE='application/ld+json' >{}</SCRIPT >",
        SCRIPT.format("\n<!--\n{}\n-->\n"),
        SCRIPT.format("// <![CDATA[\n{}\n// ]]>"),
        SCRIPT.format("/*<![CDATA[*/{}/*]]>*/"),
        '<script type="application/ld+json">{}',
    ],
)
def test_the_recipe_in_a_script_is_found(tmp_path: Path, script: str) -> None:
    page = "<!DOCTYPE html>\n<html>" + script.replace("{}", json.dumps({"@graph": [SOUP]}))
    assert [row.content for row in rows_of(tmp_path, page) if isinstance(row, Record)] == [SOUP_RECIPE]


def test_rows_have_the_line_of_their_script_and_other_scripts_are_nothing(tmp_path: Path) -> None:
    broken = SCRIPT.replace("{}", '{"@type": "Recipe",,}')
    other = SCRIPT.replace("{}", '{"@type": "Person"}') + "<script>{}</script>" + SCRIPT.replace("{}", " ")
    page = f"<html>\n{other}\n{broken}\n\n{SCRIPT.replace('{}', json.dumps([SOUP]))}</html>"
    rows = rows_of(tmp_path, page)
    assert [(row.line_number, type(row)) for row in rows] == [(3, Rejection), (5, Record)]


def test_a_page_too_long_is_a_rejection(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, b"<html>" + b" " * 2**24)
    assert isinstance(row, Rejection)
    assert row.reason == "file over 16 MiB"
