"""Parsed records in the shapes that collections of recipes have, as recipes and pairs.

The parts go by several names, whatever their case and punctuation: schema.org (`name`, `recipeIngredient`,
`recipeInstructions`), RecipeNLG and dpapathanasiou (`directions`), recipe-scrapers (`instructions_list`), Food.com
(`RecipeIngredientParts`, `steps`), Recipe Box (records by their id).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache

from recipe_exp.data.readers.cells import list_in, split_ingredients
from recipe_exp.data.readers.rows import Pair
from recipe_exp.data.readers.schema_org import is_linked_data, recipes_in
from recipe_exp.recipes.recipe import Recipe

NO_RECORD = "neither title, ingredients and instructions nor input and output"
NESTED_TOO_DEEPLY = "nested too deeply"

TITLE_NAMES = ("title", "name", "recipename", "recipetitle", "headline")
INGREDIENT_NAMES = (
    *("ingredients", "recipeingredient", "recipeingredients", "recipeingredientparts", "ingredientlines"),
    *("ingredientlist", "ingredient", "ingredientgroups"),
)
INSTRUCTION_NAMES = (
    *("instructions", "recipeinstructions", "instructionslist", "directions", "steps", "method", "preparation"),
    *("instruction", "recipedirections", "procedure"),
)
_QUANTITY_NAMES = ("quantity", "amount", "qty", "value", "measure")
_UNIT_NAMES = ("unit", "units", "unittext")
_FOOD_NAMES = ("name", "ingredient", "food", "item")
_TEXT_NAMES = ("text", "value", "step", "instruction", "direction", "description", "name")
_LIST_NAMES = ("itemlistelement", "steps", "items", "instructions", "ingredients", "item")

_JSON_TYPES: dict[type, str] = {bool: "bool", int: "int", float: "float", dict: "object", list: "array"}


def contents_in(value: object) -> Iterator[Recipe | Pair | str]:
    """Yields the recipes and pairs of a parsed record, and the reason in place of each that is none.

    A list, an object of records by their id and a list under a name are taken apart. Of linked data only what is a
    Recipe counts, so a page without one yields nothing.
    """
    try:
        for record in _records_in(value):
            yield _content_of(record)
    except RecursionError:
        yield NESTED_TOO_DEEPLY


def key_of(name: str) -> str:
    """Returns a field's name without case, punctuation and namespace, so that `recipe_ingredient` is found."""
    return _key_of(name) if len(name) <= _MAX_NAME_CHARACTERS else name


def steps_in(text: str) -> list[str]:
    """Returns the lines of a text, or the items of a list that it holds."""
    items = list_in(text)
    return text.splitlines() if items is None else items


def ingredients_in(text: str) -> list[str]:
    """Returns the lines of a text, the items of a list that it holds, or the ingredients that share its only line."""
    lines = steps_in(text)
    return split_ingredients(lines[0]) if len(lines) == 1 and "<" not in text else lines


_MAX_NAME_CHARACTERS = 64


@lru_cache(maxsize=4096)
def _key_of(name: str) -> str:
    name = name.replace("/", ":").rpartition(":")[2]
    return "".join(char for char in name.casefold() if char.isalnum())


def _records_in(value: object) -> Iterator[Mapping[str, object]]:
    if isinstance(value, list):
        for item in value:
            yield from _records_in(item)
    elif isinstance(value, dict):
        if is_linked_data(value) and (found := list(recipes_in(value))):
            yield from found
        elif _is_record(value):
            yield value
        elif not is_linked_data(value):
            inner = list(_inner_records(value))
            yield from inner if any(map(_is_record, inner)) else [value]
    else:
        yield {}


def _inner_records(value: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """Yields records by their id, and those of a list under a name; what else is beside them is about the whole."""
    for inner in value.values():
        if isinstance(inner, dict):
            yield from _records_in(inner)
        elif isinstance(inner, list):
            yield from (record for item in inner if isinstance(item, dict) for record in _records_in(item))


def _is_record(value: Mapping[str, object]) -> bool:
    keys = {key_of(name) for name in value}
    return not keys.isdisjoint(_MAIN_NAMES) or keys >= {"input", "output"}


# These are also names of other things, so they alone make no record.
_AMBIGUOUS_NAMES = {"ingredient", "instruction", "preparation", "method"}
_MAIN_NAMES = frozenset((*INGREDIENT_NAMES, *INSTRUCTION_NAMES)) - _AMBIGUOUS_NAMES


def _content_of(record: Mapping[str, object]) -> Recipe | Pair | str:
    fields = {key_of(name): value for name, value in reversed(list(record.items()))}
    try:
        score = _score(fields.get("qualityscore"))
        source, target = fields.get("input"), fields.get("output")
        if isinstance(source, str) and isinstance(target, str):
            return Pair(source, target, score)
        if all(fields.get(name) is None for name in (*TITLE_NAMES, *INGREDIENT_NAMES, *INSTRUCTION_NAMES)):
            return NO_RECORD
        origin = fields.get("source")
        return Recipe(
            title=_title(fields),
            ingredients=_part(fields, "ingredients", INGREDIENT_NAMES, _ingredient),
            instructions=_part(fields, "instructions", INSTRUCTION_NAMES, _step),
            quality_score=score,
            source=origin if isinstance(origin, str) else None,
        )
    except _UnexpectedTypeError as error:
        return str(error)


class _UnexpectedTypeError(Exception):
    """A field is neither text nor anything that holds texts."""

    def __init__(self, name: str, expected: str, value: object) -> None:
        super().__init__(f"{name}: expected {expected}, got {_JSON_TYPES.get(type(value), type(value).__name__)}")


def _score(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _UnexpectedTypeError("quality_score", "float", value)
    if not 0.0 <= value <= 1.0:
        raise _UnexpectedTypeError("quality_score", "float between 0 and 1", value)
    return float(value)


def _title(fields: Mapping[str, object]) -> str:
    for name in TITLE_NAMES:
        value = fields.get(name)
        value = value[0] if isinstance(value, list) and value else value
        value = value.get("@value") if isinstance(value, dict) else value
        if isinstance(value, str):
            if value.strip():
                return value
        elif value is not None and not isinstance(value, list):
            raise _UnexpectedTypeError("title", "str", value)
    return ""


def _part(
    fields: Mapping[str, object], part: str, names: Sequence[str], read: Callable[[str, object], Iterator[str]]
) -> tuple[str, ...]:
    """Returns the lines of the first name under which there are any."""
    for name in names:
        value = fields.get(name)
        if isinstance(value, str):
            found = ingredients_in(value) if part == "ingredients" else steps_in(value)
        elif isinstance(value, list | dict):
            found = [line for item in (value if isinstance(value, list) else [value]) for line in read(part, item)]
        elif value is None:
            continue
        else:
            raise _UnexpectedTypeError(part, "str | array", value)
        if any(map(str.strip, found)):
            return tuple(found)
    return ()


def _ingredient(part: str, item: object) -> Iterator[str]:
    if isinstance(item, dict):
        fields = {key_of(name): value for name, value in item.items()}
        words = [_word(fields, names) for names in (_QUANTITY_NAMES, _UNIT_NAMES, _FOOD_NAMES)]
        if words[2] and not any(isinstance(fields.get(name), list) for name in _LIST_NAMES):
            yield " ".join(word for word in words if word)
            return
    yield from _lines(part, item, _ingredient)


def _step(part: str, item: object) -> Iterator[str]:
    yield from _lines(part, item, _step)


def _lines(part: str, item: object, read: Callable[[str, object], Iterator[str]]) -> Iterator[str]:
    """Yields the lines of an item: a text, a list, a step, or a section whose name is not part of the recipe."""
    if isinstance(item, str):
        yield item
    elif isinstance(item, list):
        for inner in item:
            yield from read(part, inner)
    elif isinstance(item, dict):
        fields = {key_of(name): value for name, value in item.items()}
        inner = next((fields[name] for name in _LIST_NAMES if isinstance(fields.get(name), list | dict)), None)
        if inner is not None:
            yield from read(part, inner)
        elif text := _word(fields, _TEXT_NAMES):
            yield text
    elif item is not None:
        raise _UnexpectedTypeError(f"{part}[]", "str", item)


def _word(fields: Mapping[str, object], names: Sequence[str]) -> str:
    for name in names:
        value = fields.get(name)
        value = value.get("@value") if isinstance(value, dict) else value
        if isinstance(value, str) and value.strip():
            return value
        if isinstance(value, int | float) and not isinstance(value, bool):
            return f"{value:g}"
    return ""
