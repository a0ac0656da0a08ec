"""Validation errors as lines that a person can act on."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from recipe_exp.secrets import MASK, is_secret_name, redact

_PHRASES = {
    "missing": "is missing",
    "extra_forbidden": "no such key",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be a finite number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text; quote it as '\"...\"' if it looks like a number",
    "string_too_short": "must not be empty",
    "too_long": "must hold at most {max_length} texts; longer lists belong in a file",
    "tuple_type": "must be a list such as [a,b]",
    "dict_type": "must be a mapping such as {{title:1}}",
    "literal_error": "must be one of {expected}",
    "model_type": "must be a section of keys",
    "model_attributes_type": "must be a section of keys",
    "union_tag_not_found": "must be a section of keys with its `kind`",
    "union_tag_invalid": "its `kind` must be one of {expected_tags}",
}
_MAX_VALUE_CHARACTERS = 60
_MAX_LINE_CHARACTERS = 120
_MAX_PATH_CHARACTERS = 300
# What is shown is cut after secrets were looked for in this much of it.
_MAX_READ_CHARACTERS = 5_000
# An address that is entered there by mistake is a secret, and not every kind of address is known by its looks.
_KEYS_OF_SECRETS = ("tracking.notify",)
_UNIONS = ("task", "optimizer", "schedule", "adapter")


def mistakes_of(error: ValidationError) -> list[str]:
    """Returns one line for each mistake: `training.adapter.rank=0: must be greater than 0`."""
    return [line for group in grouped_by_key(error.errors()) for line in lines_of(group)]


def grouped_by_key(details: Iterable[ErrorDetails]) -> list[list[ErrorDetails]]:
    """Groups the errors of one key; a key that may hold several types has one error for each of them."""
    groups: dict[str, list[ErrorDetails]] = {}
    for detail in details:
        groups.setdefault(dotted_key(detail["loc"]), []).append(detail)
    return list(groups.values())


def lines_of(group: list[ErrorDetails]) -> list[str]:
    """Returns the lines for the errors of one key: one, unless they are contradictions between sections."""
    first = group[0]
    if first["type"] == "contradiction":
        return str(first["ctx"]["lines"]).split("\n")
    phrases = list(dict.fromkeys(_phrase(detail) for detail in group))
    key = dotted_key(first["loc"])
    shown = key if first["type"] == "missing" else show_setting(key, first["input"])
    return [f"{shown}: {' or '.join([phrases[0], *(phrase.removeprefix('must be ') for phrase in phrases[1:])])}"]


def dotted_key(location: tuple[int | str, ...]) -> str:
    """Returns the key as it is written on the command line, without the tags that Pydantic adds for unions."""
    parts: list[str] = []
    for position, part in enumerate(location):
        previous = location[position - 1] if position else None
        is_type_tag = isinstance(part, str) and (
            part in ("int", "str", "float") or part.startswith(("constrained", "literal["))
        )
        if not (previous in _UNIONS or is_type_tag or isinstance(part, int) or part == "[key]"):
            parts.append(str(part))
    return ".".join(parts)


def show_setting(key: str, value: Any) -> str:
    """Returns `key=value` for a message, without the value if the key's name is that of a secret."""
    shown = MASK if _holds_secrets(key) else show_value(value)
    return f"{in_one_line(redact(key[:_MAX_READ_CHARACTERS]))}={shown}"


def show_line(line: str) -> str:
    """Returns an override as it was typed, in one readable line and without secrets."""
    key, sign, _ = line.partition("=")
    if _holds_secrets(key.partition("@")[0].strip("+~ ")) and sign:
        return f"{in_one_line(key)}={MASK}"
    return in_one_line(redact(line[:_MAX_READ_CHARACTERS]))


def _holds_secrets(key: str) -> bool:
    return is_secret_name(key) or key in _KEYS_OF_SECRETS


def show_path(path: str | Path) -> str:
    """Returns a path in one readable line."""
    return in_one_line(redact(str(path)[:_MAX_READ_CHARACTERS]), _MAX_PATH_CHARACTERS)


def show_value(value: Any) -> str:
    """Returns a value as YAML would write it, without secrets and cut to a readable length."""
    text = value if isinstance(value, str) else _as_json(value)
    if isinstance(value, str) and _is_number(value):
        text = f'"{value}"'
    return in_one_line(redact(text[:_MAX_READ_CHARACTERS]), _MAX_VALUE_CHARACTERS)


def show_change(then: Any, now: Any) -> str:
    """Returns `then -> now`; of texts too long to be shown the part in which they differ, such as the end of a path."""
    shown = show_value(then), show_value(now)
    if shown[0] == shown[1] and isinstance(then, str) and isinstance(now, str):
        is_equal = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(then, now, strict=False))
        skipped = max(sum(1 for _ in is_equal) - _MAX_VALUE_CHARACTERS // 2, 0)
        shown = show_value(f"...{then[skipped:]}"), show_value(f"...{now[skipped:]}")
    return " -> ".join(shown)


def in_one_line(text: str, limit: int = _MAX_LINE_CHARACTERS) -> str:
    """Returns the text cut to a readable length, with a `?` for each character that cannot be printed."""
    if len(text) > limit:
        text = text[: limit - 3] + "..."
    return "".join(character if character.isprintable() else "?" for character in text)


def _as_json(value: Any) -> str:
    """Returns as much of a value as is looked at, however large or deep it is."""
    text = ""
    try:
        for piece in json.JSONEncoder(default=str, ensure_ascii=False).iterencode(value):
            text += piece
            if len(text) > _MAX_READ_CHARACTERS:
                break
    except (RecursionError, ValueError):  # deeper than Python's stack, or a number of more digits than Python writes
        text += "..."
    return text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _phrase(detail: ErrorDetails) -> str:
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    phrase = _PHRASES.get(detail["type"])
    context = {name: _show_bound(value) for name, value in detail.get("ctx", {}).items()}
    return phrase.format(**context) if phrase else detail["msg"]


def _show_bound(value: Any) -> str:
    if isinstance(value, int | float):
        return f"{value:,}" if isinstance(value, int) else f"{value:g}"
    return str(value)
