from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe_exp.data.readers import files
from recipe_exp.data.readers.files import find_files
from recipe_exp.data.readers.jsonl import read_jsonl
from recipe_exp.data.readers.rows import Pair, Record, Rejection, Row
from recipe_exp.errors import DataError
from recipe_exp.recipes.recipe import Recipe

SOUP = {"title": "Leek Soup", "ingredients": ["3 leeks", "water"], "instructions": ["Simmer."]}
GOOD_LINE = json.dumps(SOUP).encode()


def rows_of(tmp_path: Path, content: bytes) -> list[Row]:
    path = tmp_path / "recipes.jsonl"
    path.write_bytes(content)
    return list(read_jsonl(path))


def reason_of(tmp_path: Path, line: bytes) -> str:
    bad, good = rows_of(tmp_path, line + b"\n" + GOOD_LINE)
    assert isinstance(bad, Rejection)
    assert bad.line_number == 1
    assert isinstance(good, Record), "one bad line costs only itself"
    assert good.line_number == 2
    return bad.reason


def content_of(tmp_path: Path, record: dict[str, Any]) -> Recipe | Pair:
    (row,) = rows_of(tmp_path, json.dumps(record).encode())
    assert isinstance(row, Record)
    return row.content


def test_a_recipe_is_read_with_all_its_fields(tmp_path: Path) -> None:
    record = {**SOUP, "quality_score": 0.5, "source": "grandmother", "license": {"any": ["thing"]}}
    expected = Recipe("Leek Soup", ("3 leeks", "water"), ("Simmer.",), 0.5, "grandmother")
    assert content_of(tmp_path, record) == expected


def test_parts_may_be_one_text_with_line_breaks(tmp_path: Path) -> None:
    record = {"title": "Leek Soup", "ingredients": "3 leeks\nwater", "instructions": "Simmer."}
    assert content_of(tmp_path, record) == Recipe("Leek Soup", ("3 leeks", "water"), ("Simmer.",))


def test_a_pair_is_read_as_a_pair(tmp_path: Path) -> None:
    assert content_of(tmp_path, {"input": "Soup?", "output": "Boil.", "quality_score": 1}) == Pair(
        "Soup?", "Boil.", 1.0
    )


@pytest.mark.parametrize(
    "record",
    [
        {"name": "Leek Soup", "recipeIngredient": ["3 leeks", "water"], "recipeInstructions": "Simmer."},
        {"Title": "Leek Soup", "Ingredients": "3 leeks\nwater", "Directions": ["Simmer."]},
        {"title": "Leek Soup", "ingredients": '["3 leeks", "water"]', "steps": [{"text": "Simmer."}]},
        {"title": "Leek Soup", "ingredients": "3 leeks, 1 l water", "instructions": None, "method": "Simmer."},
        {
            "@type": "Recipe",
            "name": "Leek Soup",
            "ingredients": [{"text": "3 leeks"}],
            "recipeInstructions": ["Simmer."],
        },
    ],
    ids=lambda record: next(iter(record)),
)
def test_a_line_may_have_any_shape_that_a_record_has(tmp_path: Path, record: dict[str, Any]) -> None:
    content = content_of(tmp_path, record)
    assert isinstance(content, Recipe)
    assert (content.title, content.ingredients[0], content.instructions) == ("Leek Soup", "3 leeks", ("Simmer.",))


def test_a_line_of_linked_data_without_a_recipe_is_rejected(tmp_path: Path) -> None:
    assert reason_of(tmp_path, b'{"@type": "Person", "name": "A cook"}') == "no schema.org Recipe"


def test_a_missing_part_is_left_to_the_corpus(tmp_path: Path) -> None:
    assert content_of(tmp_path, {"title": "Leek Soup", "ingredients": None}) == Recipe("Leek Soup", (), ())


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "blank line"),
        (b" \t\r", "blank line"),
        (b"{}", "neither title, ingredients and instructions nor input and output"),
        (b'{"input": "only"}', "neither title, ingredients and instructions nor input and output"),
        (b'{"title": "cut', "not valid JSON"),
        (b"title: Soup", "not valid JSON"),
        (GOOD_LINE + GOOD_LINE, "not valid JSON"),
        (b'"text"', "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"title": 3}', "title: expected str, got int"),
        (b'{"title": ["a"]}', "title: expected str, got array"),
        (b'{"ingredients": ["a", "b", 3]}', "ingredients[]: expected str, got int"),
        (b'{"ingredients": {"a": 1}}', "ingredients: expected str | array, got object"),
        (b'{"title": "a", "quality_score": "0.5"}', "quality_score: expected float, got str"),
        (b'{"title": "a", "quality_score": true}', "quality_score: expected float, got bool"),
        (b'{"title": "a", "quality_score": 1.5}', "quality_score: expected float <= 1.0"),
        (b'{"title": "a", "quality_score": -0.1}', "quality_score: expected float >= 0.0"),
        (b'{"title": "a", "quality_score": 1e999}', "quality_score: number out of range"),
        (b'{"title": "a", "quality_score": NaN}', "not valid JSON"),
        (b'{"title": "a", "quality_score": Infinity}', "not valid JSON"),
        (b'{"title": "a\x00b"}', "NUL bytes"),
        (b'{"title": "\xff"}', "not UTF-8"),
        (b'{"title": "\xed\xa0\x80"}', "not UTF-8"),
        (b'{"title": "\\ud800"}', "not valid JSON"),
        (b'{"x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deeply"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_bad_line_is_rejected_with_its_reason(tmp_path: Path, line: bytes, reason: str) -> None:
    assert reason_of(tmp_path, line) == reason


def test_a_list_among_records_is_rejected(tmp_path: Path) -> None:
    assert [type(row) for row in rows_of(tmp_path, GOOD_LINE + b"\n[1]\n" + GOOD_LINE)] == [Record, Rejection, Record]


def test_equal_faults_have_equal_reasons(tmp_path: Path) -> None:
    reasons = {reason_of(tmp_path, b'{"ingredients": [%s 1]}' % (b'"a",' * count)) for count in range(5)}
    assert len(reasons) == 1


def test_byte_order_marks_are_skipped_also_between_joined_files(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, b"\xef\xbb\xbf" + GOOD_LINE + b"\r\n\xef\xbb\xbf" + GOOD_LINE)
    assert [type(row) for row in rows] == [Record, Record]


def test_an_endless_line_is_rejected_without_holding_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 2**16)
    path = tmp_path / "recipes.jsonl"
    path.write_bytes(b'{"title": "' + b"x" * 2**23 + b'"}\n' + GOOD_LINE)
    tracemalloc.start()
    bad, good = list(read_jsonl(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(bad, Rejection)
    assert bad.reason.startswith("line over")
    assert isinstance(good, Record)
    assert good.line_number == 2
    assert peak < 2**21


def test_a_line_of_exactly_the_limit_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_LINE_BYTES", len(GOOD_LINE) + 1)
    assert [type(row) for row in rows_of(tmp_path, GOOD_LINE + b"\n" + GOOD_LINE + b"\n")] == [Record, Record]


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"[" + GOOD_LINE + b"]", "data.format=json"),
        (b"\xef\xbb\xbf\n [\n", "data.format=json"),
        (GOOD_LINE.decode().encode("utf-16"), "iconv -f UTF-16"),
        (GOOD_LINE.decode().encode("utf-16-le"), "iconv -f UTF-16"),
        (GOOD_LINE.decode().encode("utf-16-be"), "iconv -f UTF-16"),
        (gzip.compress(GOOD_LINE, mtime=0)[:-10], "cannot be read to its end"),
        (gzip.compress(GOOD_LINE, mtime=0)[:12] + b"\xff" * 9, "cannot be read to its end"),
    ],
)
def test_a_file_in_another_form_is_refused_in_one_line(tmp_path: Path, content: bytes, remedy: str) -> None:
    with pytest.raises(DataError) as error:
        rows_of(tmp_path, content)
    assert remedy in str(error.value)
    assert str(tmp_path / "recipes.jsonl") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_of_zeros_is_rejected_line_by_line(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, b"\0" * 5000)
    assert isinstance(row, Rejection)
    assert row.reason == "NUL bytes"


def test_gzip_is_read_whatever_the_name(tmp_path: Path) -> None:
    assert [type(row) for row in rows_of(tmp_path, gzip.compress(GOOD_LINE + b"\n" + GOOD_LINE))] == [Record, Record]


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=200))
def test_no_bytes_cause_anything_but_rows_or_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("bytes", numbered=True)
    try:
        rows = rows_of(folder, content)
    except DataError:
        return
    assert [row.line_number for row in rows] == list(range(1, len(rows) + 1))


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.integers(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["title", "ingredients", "quality_score"]), inner),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(record=st.dictionaries(st.sampled_from(["title", "ingredients", "instructions", "quality_score", "x"]), JSON))
def test_any_object_is_a_typed_record_or_a_rejection(
    tmp_path_factory: pytest.TempPathFactory, record: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("objects", numbered=True)
    # An object that wraps a list of objects is that many rows.
    rows = rows_of(folder, json.dumps(record).encode())
    assert rows
    for row in rows:
        if isinstance(row, Record):
            assert isinstance(row.content, Recipe)
            assert isinstance(row.content.title, str)
            assert all(isinstance(line, str) for line in (*row.content.ingredients, *row.content.instructions))
            assert row.content.quality_score is None or 0.0 <= row.content.quality_score <= 1.0


class TestFindFiles:
    def test_a_folder_is_searched_at_every_depth_in_a_fixed_order(self, tmp_path: Path) -> None:
        for name in ["b.jsonl", "a/z.jsonl", "a/b/c.jsonl.gz", "a/notes.txt", ".hidden/x.jsonl", "a/._z.jsonl"]:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(GOOD_LINE)
        found = [file.relative_to(tmp_path).as_posix() for file in find_files(tmp_path)]
        assert found == ["a/b/c.jsonl.gz", "a/z.jsonl", "b.jsonl"]

    def test_linked_folders_are_followed_once(self, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere/a.jsonl").write_bytes(GOOD_LINE)
        (tmp_path / "data/link").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "elsewhere/up").symlink_to(tmp_path / "data")
        assert find_files(tmp_path / "data") == [tmp_path / "data/link/a.jsonl"]

    def test_a_file_may_have_any_name(self, tmp_path: Path) -> None:
        path = tmp_path / "recipes[1].txt"
        path.write_bytes(GOOD_LINE)
        assert find_files(str(path)) == [path]

    def test_a_glob_finds_files_only(self, tmp_path: Path) -> None:
        (tmp_path / "c.jsonl").mkdir()
        for name in ["b.jsonl", "a.jsonl", "a.txt"]:
            (tmp_path / name).write_bytes(GOOD_LINE)
        assert find_files(str(tmp_path / "*.jsonl")) == [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]

    def test_an_empty_part_among_others_is_no_error(self, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").touch()
        (tmp_path / "b.jsonl").write_bytes(GOOD_LINE)
        assert len(find_files(tmp_path)) == 2

    @pytest.mark.parametrize(
        ("prepare", "path", "expected"),
        [
            (lambda _: None, "nothing.jsonl", "no such file or folder"),
            (lambda _: None, "*.jsonl", "no such file or folder"),
            (lambda _: None, "", "the folder holds no .jsonl file"),
            (lambda folder: (folder / "a.jsonl").touch(), "", "is empty"),
            (lambda folder: (folder / "a.jsonl").touch(), "a.jsonl", "is empty"),
            (lambda folder: (folder / "a.jsonl").symlink_to("gone"), "a.jsonl", "no such file or folder"),
            (lambda folder: (folder / "a").touch(), "a/b.jsonl", "no such file or folder"),
        ],
    )
    def test_nothing_to_read_is_one_line(self, tmp_path: Path, prepare: Any, path: str, expected: str) -> None:
        prepare(tmp_path)
        with pytest.raises(DataError, match=expected) as error:
            find_files(tmp_path / path)
        assert str(error.value).startswith("data.path=")
        assert "\n" not in str(error.value)

    def test_a_file_that_may_not_be_read_is_one_line(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "a.jsonl"
        path.write_bytes(GOOD_LINE)

        def refuse(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", refuse)
        with pytest.raises(DataError, match="cannot be read: Permission denied"):
            find_files(path)
