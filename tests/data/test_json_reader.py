from __future__ import annotations

import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe_exp.data.readers import json_scan
from recipe_exp.data.readers.json import read_json
from recipe_exp.data.readers.json_scan import inner_objects, top_level_objects
from recipe_exp.data.readers.rows import Pair, Record, Rejection, Row
from recipe_exp.recipes.recipe import Recipe

SOUP = {"title": "Leek Soup", "ingredients": ["3 leeks"], "instructions": ["Simmer."]}
TEA = {"title": "Tea", "ingredients": ["tea"], "instructions": ["Pour."]}


def rows_of(tmp_path: Path, content: str | bytes | object) -> list[Row]:
    path = tmp_path / "recipes.json"
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return list(read_json(path))


def recipes_in(tmp_path: Path, content: str | bytes | object) -> list[Recipe | Pair]:
    return [row.content for row in rows_of(tmp_path, content) if isinstance(row, Record)]


def titles_in(tmp_path: Path, content: str | bytes | object) -> list[str]:
    return [content.title for content in recipes_in(tmp_path, content) if isinstance(content, Recipe)]


class TestShapesOfFiles:
    @pytest.mark.parametrize(
        "content",
        [
            [SOUP, TEA],
            {"1": SOUP, "2": TEA},
            {"source": "the house", "count": 2, "recipes": [SOUP, TEA]},
            {"data": {"recipes": [SOUP, TEA]}},
            json.dumps(SOUP) + json.dumps(TEA),
            json.dumps(SOUP, indent=2) + "\n\n" + json.dumps(TEA, indent=2),
            "\ufeff" + json.dumps([SOUP, TEA]),
            [[SOUP], [[TEA]]],
        ],
        ids=["list", "by id", "under a name", "deeper", "joined", "indented", "marked", "nested lists"],
    )
    def test_records_are_found_wherever_they_stand(self, tmp_path: Path, content: object) -> None:
        assert titles_in(tmp_path, content) == ["Leek Soup", "Tea"]

    def test_lines_are_those_where_the_records_begin(self, tmp_path: Path) -> None:
        rows = rows_of(tmp_path, json.dumps([SOUP, 3, TEA, {}], indent=1))
        assert [(type(row), row.line_number) for row in rows] == [
            (Record, 2),
            (Rejection, 11),
            (Record, 12),
            (Rejection, 21),
        ]

    def test_one_bad_record_of_a_list_costs_only_itself(self, tmp_path: Path) -> None:
        rows = rows_of(tmp_path, '[{"title": "a",,}, ' + json.dumps(SOUP) + ', {"title": tru}]')
        assert [type(row) for row in rows] == [Rejection, Record, Rejection]

    def test_a_list_that_is_cut_is_a_rejection_beside_its_records(self, tmp_path: Path) -> None:
        rows = rows_of(tmp_path, json.dumps([SOUP, TEA])[:-20])
        assert [row.reason if isinstance(row, Rejection) else "" for row in rows] == ["", "not valid JSON"]
        rows = rows_of(tmp_path, json.dumps([SOUP, TEA])[:-1])
        assert [row.reason if isinstance(row, Rejection) else "" for row in rows] == ["", "", "not valid JSON"]

    def test_nulls_in_a_list_are_nothing(self, tmp_path: Path) -> None:
        assert [type(row) for row in rows_of(tmp_path, [None, SOUP, None, None])] == [Record]

    def test_pages_write_line_breaks_and_nan_into_json(self, tmp_path: Path) -> None:
        text = '{"title": "Leek\tSoup", "rating": NaN, "ingredients": ["3 leeks"], "instructions": "Cut.\nSimmer."}'
        assert recipes_in(tmp_path, text) == [Recipe("Leek\tSoup", ("3 leeks",), ("Cut.", "Simmer."))]

    def test_a_number_of_thousands_of_digits_harms_nothing(self, tmp_path: Path) -> None:
        assert titles_in(tmp_path, json.dumps({**SOUP, "extra": "\t"})[:-1] + ', "x": ' + "9" * 9999 + "}") == [
            "Leek Soup"
        ]


def recipe_of(tmp_path: Path, **parts: Any) -> Recipe:
    (content,) = recipes_in(tmp_path, {"@context": "https://schema.org", "@type": "Recipe", "name": "Pie", **parts})
    assert isinstance(content, Recipe)
    return content


class TestLinkedData:
    @pytest.mark.parametrize(
        "instructions",
        [
            "Roll.\nBake.",
            ["Roll.", "Bake."],
            [["Roll.", "Bake."]],
            [{"@type": "HowToStep", "text": "Roll."}, {"@type": "HowToStep", "name": "Bake."}],
            [{"@type": "HowToStep", "name": "Step 1", "text": "Roll."}, "Bake."],
            [{"@type": "HowToSection", "name": "All", "itemListElement": [{"text": "Roll."}, {"text": "Bake."}]}],
            [{"@type": "HowToSection", "itemListElement": {"text": "Roll."}}, {"text": "Bake."}],
            {"@type": "ItemList", "itemListElement": [{"@type": "ListItem", "item": {"text": "Roll."}}, "Bake."]},
            [{"itemListElement": [{"@type": "HowToDirection", "text": "Roll."}]}, None, {"text": {"@value": "Bake."}}],
        ],
        ids=lambda value: json.dumps(value)[:50],
    )
    def test_instructions_of_every_shape(self, tmp_path: Path, instructions: object) -> None:
        assert recipe_of(tmp_path, recipeInstructions=instructions).instructions == ("Roll.", "Bake.")

    @pytest.mark.parametrize(
        ("key", "ingredients"),
        [
            ("recipeIngredient", ["1 egg", "2 apples"]),
            ("ingredients", ["1 egg", "2 apples"]),
            ("recipeIngredients", [["1 egg"], "2 apples"]),
            ("recipeIngredient", "1 egg, 2 apples"),
            ("recipeIngredient", "1 egg\n2 apples"),
            ("recipeIngredient", [{"@type": "PropertyValue", "name": "egg", "value": 1}, {"text": "2 apples"}]),
            ("recipeIngredient", [{"amount": "1", "unit": "", "ingredient": "egg"}, {"qty": 2, "food": "apples"}]),
        ],
    )
    def test_ingredients_of_every_shape(self, tmp_path: Path, key: str, ingredients: object) -> None:
        assert recipe_of(tmp_path, **{key: ingredients}).ingredients == ("1 egg", "2 apples")

    def test_an_empty_part_gives_way_to_one_of_another_name(self, tmp_path: Path) -> None:
        recipe = recipe_of(tmp_path, recipeIngredient=[], ingredients=["1 egg"], instructions=None, steps=["Bake."])
        assert (recipe.ingredients, recipe.instructions) == (("1 egg",), ("Bake.",))

    def test_only_recipes_of_a_page_count(self, tmp_path: Path) -> None:
        recipe = {"@type": ["Thing", "schema:Recipe"], "name": "Pie", "author": {"@type": "Person", "name": "A cook"}}
        page = {"@type": "WebPage", "mainEntity": recipe, "breadcrumb": {"@type": "BreadcrumbList"}}
        assert titles_in(tmp_path, {"@graph": [page, {"@type": "Person", "name": "A cook"}]}) == ["Pie"]
        assert titles_in(tmp_path, [page]) == ["Pie"]
        assert rows_of(tmp_path, {"@graph": [{"@type": "Person", "name": "A cook"}]}) == []


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"title": 3, "ingredients": [], "instructions": []}, "title: expected str, got int"),
        ({"name": {"de": "Suppe"}, "ingredients": True}, "ingredients: expected str | array, got bool"),
        ({"name": "a", "directions": [1.5]}, "instructions[]: expected str, got float"),
        ({**SOUP, "quality_score": "high"}, "quality_score: expected float, got str"),
        ({"name": "a", "directions": [], "quality_score": 2}, "quality_score: expected float <= 1.0"),
        ({"name": "a", "steps": [], "quality_score": True}, "quality_score: expected float, got bool"),
        ({}, "neither title, ingredients and instructions nor input and output"),
        ({"a": [1, 2], "b": {"c": 3}}, "neither title, ingredients and instructions nor input and output"),
    ],
)
def test_a_wrong_type_is_a_reason(tmp_path: Path, record: dict[str, Any], reason: str) -> None:
    (row,) = rows_of(tmp_path, record)
    assert isinstance(row, Rejection)
    assert row.reason == reason


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.sampled_from('ab"\\{}[],:\n'), max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('ab{["\\', max_size=3), inner, max_size=3),
    max_leaves=12,
)


def outermost_objects(value: object) -> list[object]:
    if isinstance(value, dict):
        return [value]
    return [found for item in value for found in outermost_objects(item)] if isinstance(value, list) else []


@settings(max_examples=300, deadline=None)
@given(value=st.lists(JSON, max_size=5), indent=st.sampled_from([None, 1]), chunk=st.sampled_from([1, 2, 7, 64, 9999]))
def test_the_scan_finds_the_objects_that_a_parser_finds(value: list[Any], indent: int | None, chunk: int) -> None:
    text = json.dumps(value, indent=indent).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_scan, "_CHUNK_BYTES", chunk)
        pieces = list(inner_objects(io.BytesIO(text), 10_000))
    found = [piece for piece in pieces if piece.fault is None]
    assert [json.loads(piece.text) for piece in found] == outermost_objects(value)
    assert {piece.fault for piece in pieces} <= {None, "no object"}
    lines = text.split(b"\n")
    for piece in found:
        first_line = piece.text.split(b"\n")[0]
        assert first_line in lines[piece.line_number - 1]


@settings(max_examples=300, deadline=None)
@given(
    text=st.text(st.sampled_from('{}[]",\\:a1 \n'), max_size=60)
    | st.binary(max_size=60).map(lambda b: b.decode("latin-1")),
    chunk=st.sampled_from([1, 3, 999]),
)
def test_no_text_makes_the_scan_raise(text: str, chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_scan, "_CHUNK_BYTES", chunk)
        for scan in (inner_objects, top_level_objects):
            assert all(piece.line_number >= 1 for piece in scan(io.BytesIO(text.encode()), 20))


def test_a_long_object_is_passed_over_without_holding_it() -> None:
    text = b'[{"a": "' + b'x\\"' * 2**21 + b'"}, {"b": 1}]'
    tracemalloc.start()
    pieces = list(inner_objects(io.BytesIO(text), 2**16))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [(piece.text, piece.fault) for piece in pieces] == [(b"", "too long"), (b'{"b": 1}', None)]
    assert peak < 2**21


def test_a_collection_larger_than_any_record_is_read_record_by_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recipe_exp.data.readers import json as module

    monkeypatch.setattr(module, "MAX_LINE_BYTES", 500)
    monkeypatch.setattr(json_scan, "_CHUNK_BYTES", 100)
    assert titles_in(tmp_path, {str(number): SOUP for number in range(20)}) == ["Leek Soup"] * 20
    assert titles_in(tmp_path, {"recipes": [SOUP] * 20}) == ["Leek Soup"] * 20
