from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe_exp.data.readers.mealmaster import read_mealmaster
from recipe_exp.data.readers.rows import Record, Rejection, Row
from recipe_exp.recipes.recipe import Recipe

HEAD = (
    "MMMMM----- Recipe via Meal-Master (tm) v8.05\n\n      Title: Stew\n Categories: Stews\n      Yield: 4 servings\n\n"
)
END = "\nMMMMM\n"


def rows_of(tmp_path: Path, content: str | bytes) -> list[Row]:
    path = tmp_path / "recipes.mmf"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_mealmaster(path))


def recipe_of(tmp_path: Path, body: str) -> Recipe:
    (row,) = rows_of(tmp_path, HEAD + body + END)
    assert isinstance(row, Record)
    assert isinstance(row.content, Recipe)
    return row.content


@pytest.mark.parametrize(
    ("line", "ingredient"),
    [
        ("      1 c  Flour", "1 cup Flour"),
        ("  1 1/2 tb Oil", "1 1/2 tbsp Oil"),
        ("      2 T  Oil", "2 tbsp Oil"),
        ("      2 t  Salt", "2 tsp Salt"),
        ("      1 fl Rum", "1 fl oz Rum"),
        ("    250 g  Butter", "250 g Butter"),
        ("      3    Eggs", "3 Eggs"),
        ("      3 x  Eggs", "3 Eggs"),
        ("        pn Salt", "pinch Salt"),
        ("           Pepper", "Pepper"),
        ("    1-2 lg Onions", "1-2 large Onions"),
        ("    0.5 l  Milk", "0.5 l Milk"),
    ],
)
def test_codes_of_units_are_written_out(tmp_path: Path, line: str, ingredient: str) -> None:
    assert recipe_of(tmp_path, f"{line}\n\n  Cook.\n") == Recipe("Stew", (ingredient,), ("Cook.",))


def test_two_columns_are_read_one_after_the_other_section_by_section(tmp_path: Path) -> None:
    left = ["      1 lb Beef; cubed", "           -and trimmed", "      2    Carrots"]
    right = [
        "    1/2 c  Wine",
        "           Salt",
        "      1 sm Onion; cut",
    ]
    columns = "\n".join(f"{one:40}{other}" for one, other in zip(left, right, strict=True))
    body = f"{columns}\n\nMMMMM-----------------TOPPING------------------\n      1    Egg\n\n  Cook.\n"
    assert recipe_of(tmp_path, body).ingredients == (
        "1 lb Beef; cubed and trimmed",
        "2 Carrots",
        "1/2 cup Wine",
        "Salt",
        "1 small Onion; cut",
        "1 Egg",
    )


def test_paragraphs_are_steps(tmp_path: Path) -> None:
    body = "      1    Egg\n\n  Boil\n  it.\n  -----------------------------\n  Peel it.\n\n  Eat.\n  :Slowly.\n"
    assert recipe_of(tmp_path, body).instructions == ("Boil it.", "Peel it.", "Eat.", "Slowly.")


def test_recipes_have_the_line_of_their_header_and_need_no_end(tmp_path: Path) -> None:
    one = HEAD + "      1    Egg\n\n  Boil.\n"
    rows = rows_of(tmp_path, "A letter.\n" + one + "\nMMMMM\nsigned\n" + one + one.replace("MMMMM-----", "----------"))
    assert [row.line_number for row in rows] == [2, 14, 23]
    assert {row.content for row in rows if isinstance(row, Record)} == {Recipe("Stew", ("1 Egg",), ("Boil.",))}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"\xe8", "not UTF-8"),
        (b"\0", "NUL bytes"),
        (b"x" * (2**24 + 1), "line over 16 MiB"),
        (b"x\n" * 2**20, "recipe over 1 MiB"),
    ],
    ids=["latin-1", "nul", "long line", "long"],
)
def test_a_bad_recipe_costs_only_itself(tmp_path: Path, line: bytes, reason: str) -> None:
    good = (HEAD + "      1    Egg\n\n  Boil.\n" + END).encode()
    rows = rows_of(tmp_path, b"\xef\xbb\xbf" + HEAD.encode() + line + END.encode() + good)
    assert isinstance(rows[0], Rejection)
    assert (rows[0].line_number, rows[0].reason) == (1, reason)
    assert isinstance(rows[1], Record)


@settings(max_examples=200, deadline=None)
@given(body=st.text(st.sampled_from("M-:~ 1/2abc\n\t"), max_size=120))
def test_no_text_raises(tmp_path_factory: pytest.TempPathFactory, body: str) -> None:
    good = HEAD + "      1    Egg\n\n  Boil.\n" + END
    rows = rows_of(tmp_path_factory.mktemp("cards", numbered=True), HEAD + body + END + good)
    assert all(isinstance(row, Record | Rejection) for row in rows)
    assert len(rows) >= 2
    assert isinstance(rows[-1], Record)
    assert rows[-1].content == Recipe("Stew", ("1 Egg",), ("Boil.",))
