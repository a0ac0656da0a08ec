"""Interpolations (`${training.seed}`): bounded before any is resolved, since each may stand for many others."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

MAX_INTERPOLATIONS = 20
"""So many can repeat a text some thousand times at most, however they refer to each other."""

_OPENING = re.compile(r"(?<!\\)\$\{")
# They read a text as one more configuration.
_READING = re.compile(r"\$\{\s*(?:\$\{|oc\.(?:decode|create)\b)")


def find_unbounded(data: Any, typed: Iterable[str]) -> list[str]:
    """Returns the mistake of interpolations that could hold the command up, if there is one.

    Args:
        data: the composed files as plain data, unresolved.
        typed: the overrides.
    """
    texts = [text for text in (*_texts(data), *typed) if "${" in text]
    if any(_READING.search(text) for text in texts):
        return ["${${...}}, ${oc.decode:...}, ${oc.create:...}: are not used here; write the value itself"]
    if sum(len(_OPENING.findall(text)) for text in texts) > MAX_INTERPOLATIONS:
        return [f"${{...}}: over {MAX_INTERPOLATIONS} interpolations in one configuration; write some of them out"]
    return []


def multiply(left: Any, right: Any) -> int | float:
    """Returns the product of two numbers: `${mul:2,${training.adapter.rank}}`.

    Raises:
        ValueError: one of them is no number.
    """
    for factor in (left, right):
        if isinstance(factor, bool) or not isinstance(factor, int | float):
            raise ValueError("mul takes two numbers")
    product: int | float = left * right
    return product


def _texts(data: Any) -> Iterator[str]:
    if isinstance(data, str):
        yield data
    elif isinstance(data, dict):
        for value in data.values():
            yield from _texts(value)
    elif isinstance(data, list):
        for value in data:
            yield from _texts(value)
