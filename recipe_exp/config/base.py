"""What every section of the configuration has in common."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, field_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from recipe_exp.secrets import find_secret

# What is stored with a run has to be small enough to be read back.
MAX_TEXT_CHARACTERS = 10_000
MAX_TEXTS = 1_000
# Control characters but tab and line feed, line separators, directional overrides, and halves of characters.
_UNPRINTABLE = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

Strings = Annotated[tuple[str, ...], Field(strict=False, max_length=MAX_TEXTS)]
Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class Section(BaseModel):
    """A frozen, strictly typed part of the configuration.

    An unknown key, a wrong type, NaN, infinity and a secret are refused; the docstring under each field is its
    documentation and reaches the JSON schema. The docstrings are read when they are asked for: reading the source of
    every section would take a fifth of the time that composing a configuration takes.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        validate_default=True,
    )

    @classmethod
    def documentation(cls) -> dict[str, str]:
        """Returns the docstring under each field."""
        bases = [base for base in cls.__mro__ if issubclass(base, Section)]
        return {name: text for base in reversed(bases) for name, text in _docstrings(base).items()}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for name, text in cls.documentation().items():
            properties[name]["description"] = text
        return schema

    @field_validator("*")
    @classmethod
    def _refuse_unstorable_text(cls, value: object) -> object:
        for text in _texts(value):
            # Looked at before anything is searched in the text.
            if len(text) > MAX_TEXT_CHARACTERS:
                raise ValueError(f"must be at most {MAX_TEXT_CHARACTERS:,} characters; longer texts belong in a file")
            unprintable = _UNPRINTABLE.search(text)
            if unprintable:
                raise ValueError(
                    "must be text that a UTF-8 file can hold and a terminal can print, "
                    f"without U+{ord(unprintable[0]):04X}"
                )
            kind = find_secret(text)
            if kind:
                raise ValueError(f"holds {kind}, which would be stored with the run; set it in the environment or .env")
        return value


@cache
def _docstrings(section: type[Section]) -> dict[str, str]:
    """Returns the docstring under each field that the class itself brings."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(section))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, below in itertools.pairwise(definition.body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            text = below.value.value if isinstance(below.value, ast.Constant) else None
            if isinstance(text, str):
                found[field.target.id] = inspect.cleandoc(text)
    return found


def default_values(section: type[Section]) -> dict[str, Any]:
    """The section's defaults as plain data, `???` where a value is mandatory.

    Fields that are themselves sections without a default are left out: a nested Hydra group supplies them.
    """
    values: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        if not field.is_required():
            default = field.get_default(call_default_factory=True)
            values[name] = default.model_dump(mode="json") if isinstance(default, Section) else _plain(default)
        elif isinstance(field.annotation, type) and not issubclass(field.annotation, Section):
            values[name] = "???"
    return values


def sections_in(annotation: Any) -> list[type[Section]]:
    """Returns the sections that a field may hold: none for a value, several for a union."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType):
        return [section for argument in get_args(annotation) for section in sections_in(argument)]
    if hasattr(annotation, "__metadata__"):
        return sections_in(get_args(annotation)[0])
    return []


def every_key(section: type[Section], prefix: str = "") -> list[str]:
    """Returns every dotted key that holds a value, of all options of all unions."""
    keys: dict[str, None] = {}
    for name, field in section.model_fields.items():
        options = sections_in(field.annotation)
        inner = [key for option in options for key in every_key(option, f"{prefix}{name}.")]
        keys |= dict.fromkeys(inner if options else [f"{prefix}{name}"])
    return list(keys)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _texts(value: object) -> Iterator[str]:
    """Yields a value's texts; sections look at their own."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        yield from (item for item in value if isinstance(item, str))
    elif isinstance(value, dict):
        yield from (item for pair in value.items() for item in pair if isinstance(item, str))
