"""What tables have in common, whether of text or of columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from recipe_exp.data.readers.records import INGREDIENT_NAMES, INSTRUCTION_NAMES, TITLE_NAMES, contents_in, key_of
from recipe_exp.data.readers.rows import Row, row_of
from recipe_exp.errors import DataError

_NUM_COLUMNS_SHOWN = 8
_NUM_CHARACTERS_SHOWN = 40
_USED_COLUMNS = frozenset(
    (*TITLE_NAMES, *INGREDIENT_NAMES, *INSTRUCTION_NAMES, "input", "output", "qualityscore", "source")
)


def is_table_of_recipes(columns: Iterable[str]) -> bool:
    """Whether the names are those of a recipe's parts, or of pairs."""
    keys = set(map(key_of, columns))
    is_recipe = not keys.isdisjoint(TITLE_NAMES) and not keys.isdisjoint((*INGREDIENT_NAMES, *INSTRUCTION_NAMES))
    return is_recipe or keys >= {"input", "output"}


def used_columns(where: str, columns: Sequence[str]) -> list[str]:
    """Returns the columns that recipes and pairs are made of.

    Raises:
        DataError: the table has none of the kind.
    """
    if is_table_of_recipes(columns):
        return [name for name in columns if key_of(name) in _USED_COLUMNS]
    shown = ", ".join(_in_print(name) for name in columns[:_NUM_COLUMNS_SHOWN]) or "nothing"
    more = ", ..." if len(columns) > _NUM_COLUMNS_SHOWN else ""
    remedy = "name them title, ingredients and instructions, or input and output"
    raise DataError(f"{where}: the columns are called {shown}{more}; {remedy}")


def _in_print(name: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in name.strip()[:_NUM_CHARACTERS_SHOWN])


def rows_of_table(where: str, batches: Iterable[Sequence[Mapping[str, object]]]) -> Iterator[Row]:
    """Yields a row for every record of a table, with its number counted from 1."""
    number = 0
    for batch in batches:
        for record in batch:
            number += 1
            for content in contents_in(dict(record)):
                yield row_of(where, number, content)
