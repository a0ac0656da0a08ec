"""One JSON object as rows: quickly where the fields have their usual names, else whatever its shape is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Annotated

import msgspec

from recipe_exp.data.readers.records import NESTED_TOO_DEEPLY, NO_RECORD, contents_in, ingredients_in, steps_in
from recipe_exp.data.readers.rows import Pair, Record, Rejection, Row, row_of
from recipe_exp.data.readers.schema_org import is_linked_data
from recipe_exp.recipes.recipe import Recipe

NOT_JSON = "not valid JSON"
NO_OBJECT = "not a JSON object"
NO_RECIPE = "no schema.org Recipe"

_PLACE = re.compile(r"(.*) - at `\$\.([^`]*)`")
_INDEX = re.compile(r"\[\d+\]")


class _UsualRecord(msgspec.Struct):
    title: str | None = None
    ingredients: list[str] | str | None = None
    instructions: list[str] | str | None = None
    input: str | None = None
    output: str | None = None
    quality_score: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] | None = None
    source: str | None = None


_DECODER = msgspec.json.Decoder(_UsualRecord)


def rows_of_json(file: str, line_number: int, text: bytes, *, lenient: bool = False) -> Iterator[Row]:
    """Yields a row for every record in the text of one JSON value, or the reason why it is none.

    Args:
        file: named in the rows.
        line_number: where the value begins.
        text: one JSON value in UTF-8.
        lenient: take line breaks and other control characters inside strings and NaN as null, and yield nothing for
            linked data about something else, of which a page has many.
    """
    fault = NO_RECORD
    try:
        usual = _DECODER.decode(text)
        if usual.input is not None and usual.output is not None:
            yield Record(file, line_number, Pair(usual.input, usual.output, usual.quality_score))
            return
        if usual.title is not None and usual.ingredients is not None and usual.instructions is not None:
            yield Record(file, line_number, _recipe(usual))
            return
    except msgspec.ValidationError as error:
        fault = _reason(error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if not lenient or isinstance(error, RecursionError):
            yield Rejection(file, line_number, _decoding_fault(error, text))
            return
    try:
        value = _decode_leniently(text) if lenient else msgspec.json.decode(text)
    except (ValueError, RecursionError) as error:
        yield Rejection(file, line_number, _decoding_fault(error, text) if fault == NO_RECORD else fault)
        return
    contents = _contents(value, fault)
    for content in contents or ([] if lenient else [NO_RECIPE]):
        yield row_of(file, line_number, content)


def _contents(value: object, fault: str) -> list[Recipe | Pair | str]:
    if not isinstance(value, dict | list):
        return [NO_OBJECT]
    contents = list(contents_in(value))
    # What the usual shape finds wrong is said in its words, unless another shape finds a whole recipe.
    is_usual = isinstance(value, dict) and not is_linked_data(value)
    if fault != NO_RECORD and is_usual and not any(map(_is_whole, contents)):
        return [fault]
    return contents


def _is_whole(content: Recipe | Pair | str) -> bool:
    return isinstance(content, Pair) or (
        isinstance(content, Recipe) and bool(content.title and content.ingredients and content.instructions)
    )


def _recipe(record: _UsualRecord) -> Recipe:
    return Recipe(
        title=record.title or "",
        ingredients=_texts(record.ingredients, ingredients_in),
        instructions=_texts(record.instructions, steps_in),
        quality_score=record.quality_score,
        source=record.source,
    )


def _texts(value: list[str] | str | None, read: Callable[[str], list[str]]) -> tuple[str, ...]:
    return tuple(read(value) if isinstance(value, str) else value or ())


def _decode_leniently(text: bytes) -> object:
    """Decodes what pages write into their scripts: control characters stand in strings, and NaN for a number."""
    return json.loads(text.decode(), strict=False, parse_constant=lambda _: None, parse_int=_whole_number)


def _whole_number(digits: str) -> int:
    # int() refuses thousands of digits, and no number in a recipe needs them.
    return int(digits[:20])


def _decoding_fault(error: Exception, text: bytes) -> str:
    if isinstance(error, RecursionError):
        return NESTED_TOO_DEEPLY
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    return "NUL bytes" if b"\0" in text else NOT_JSON


def _reason(error: msgspec.ValidationError) -> str:
    """Returns the fault without the line's own numbers, so that equal faults are counted together."""
    place = _PLACE.fullmatch(str(error))
    if place is None:
        return NO_OBJECT
    return f"{_INDEX.sub('[]', place[2])}: {place[1][:1].lower()}{place[1][1:]}".replace("`", "").replace(" | null", "")
