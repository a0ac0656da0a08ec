"""Readers of one's own: any function that makes recipes of a file."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from recipe_exp.data.readers.format import Format
from recipe_exp.data.readers.records import contents_in
from recipe_exp.data.readers.rows import Pair, Record, Rejection, Row, row_of
from recipe_exp.errors import ConfigError, DataError
from recipe_exp.recipes.recipe import Recipe


def import_reader(name: str) -> Format:
    """Returns the format that `data.format=module:function` names.

    The function (or a class, of which one is made without arguments and called) takes the path of a file and yields
    what is in it: `Recipe` or `Pair` objects, mappings in any of the shapes that `records` knows, or `Record` and
    `Rejection` rows, which have line numbers of their own. Its attribute `suffixes`, such as `(".xyz",)`, says which
    files of a folder are read; without it all are. The data count as changed when the module's file does.

    Raises:
        ConfigError: it cannot be imported or called.
    """
    where = f"data.format={name}"
    module_name, _, attribute = name.partition(":")
    # A user's module runs here, so any error is possible, and none is worth more than its line.
    try:
        module = import_module(module_name)
        found = getattr(module, attribute)
        read = found() if isinstance(found, type) else found
        suffixes = tuple(str(suffix).lower() for suffix in getattr(found, "suffixes", ()))
        source = inspect.getsource(module)
    except Exception as error:
        raise ConfigError([f"{where}: {_line_of(error)}; the module must be importable from here"]) from error
    if not callable(read):
        raise ConfigError([f"{where}: cannot be called; it takes a path and yields recipes"])
    version = hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()
    return Format(
        name=name,
        suffixes=suffixes,
        read=lambda path: _read(where, read, path),
        recognises=lambda _: False,
        is_named_by_file=True,
        version=version,
    )


def _read(where: str, read: Callable[[Path], Iterable[Any]], path: Path) -> Iterator[Row]:
    items = _items(where, read, path)
    for number, item in enumerate(items, start=1):
        if isinstance(item, Record | Rejection):
            yield item
        elif isinstance(item, Recipe | Pair):
            yield Record(str(path), number, item)
        elif isinstance(item, Mapping):
            for content in contents_in(dict(item)):
                yield row_of(str(path), number, content)
        else:
            yield Rejection(str(path), number, f"the reader gave {type(item).__name__}, no recipe")


def _items(where: str, read: Callable[[Path], Iterable[Any]], path: Path) -> Iterator[Any]:
    try:
        yield from read(path)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{path}: {where} failed with {_line_of(error)}") from error


def _line_of(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
