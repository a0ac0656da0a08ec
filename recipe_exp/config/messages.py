"""Validation errors as lines that a person can act on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

_PHRASES = {
    "missing": "is missing",
    "extra_forbidden": "no such key",
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "finite_number": "must be a finite number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text; quote it as '\"...\"' if it looks like a number",
    "string_too_short": "must not be empty",
    "tuple_type": "must be a list such as [a,b]",
    "literal_error": "must be one of {expected}",
    "model_type": "must be a section of keys",
}
_MAX_VALUE_CHARACTERS = 60
_CREDENTIALS = re.compile(r"://[^/\s]*@")


def mistakes_of(error: ValidationError) -> list[str]:
    """Returns one line for each mistake: `training.adapter.rank=0: must be greater than 0`."""
    return [line for group in grouped_by_key(error.errors()) for line in _lines(group)]


def grouped_by_key(details: Iterable[ErrorDetails]) -> list[list[ErrorDetails]]:
    """Groups the errors of one key; a key that may hold several types has one error for each of them."""
    groups: dict[str, list[ErrorDetails]] = {}
    for detail in details:
        groups.setdefault(dotted_key(detail["loc"]), []).append(detail)
    return list(groups.values())


def dotted_key(location: tuple[int | str, ...]) -> str:
    """Returns the key as it is written on the command line, without the tags that Pydantic adds for unions."""
    parts: list[str] = []
    for position, part in enumerate(location):
        previous = location[position - 1] if position else None
        is_union_tag = previous in ("task", "optimizer", "schedule", "adapter")
        is_type_tag = isinstance(part, str) and (
            part in ("int", "str", "float") or part.startswith(("constrained", "literal["))
        )
        if not (is_union_tag or is_type_tag or isinstance(part, int)):
            parts.append(str(part))
    return ".".join(parts)


def show_value(value: Any) -> str:
    """Returns a value as YAML would write it, cut to a readable length."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    text = "".join(character if character.isprintable() else "?" for character in text)
    text = _CREDENTIALS.sub("://...@", text)
    return text if len(text) <= _MAX_VALUE_CHARACTERS else text[: _MAX_VALUE_CHARACTERS - 3] + "..."


def _lines(group: list[ErrorDetails]) -> list[str]:
    first = group[0]
    if first["type"] == "contradiction":
        return str(first["ctx"]["lines"]).split("\n")
    phrases = list(dict.fromkeys(_phrase(detail) for detail in group))
    key = dotted_key(first["loc"])
    shown = key if first["type"] == "missing" else f"{key}={show_value(first['input'])}"
    return [f"{shown}: {' or '.join([phrases[0], *(phrase.removeprefix('must be ') for phrase in phrases[1:])])}"]


def _phrase(detail: ErrorDetails) -> str:
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    phrase = _PHRASES.get(detail["type"])
    return phrase.format(**detail.get("ctx", {})) if phrase else detail["msg"]
