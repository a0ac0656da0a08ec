"""What every section of the configuration has in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from recipe_exp.config.secrets import find_secret

Strings = Annotated[tuple[str, ...], Field(strict=False)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class Section(BaseModel):
    """A frozen, strictly typed part of the configuration.

    An unknown key, a wrong type, NaN, infinity and a secret are refused; the docstring under each field is its
    documentation and reaches the JSON schema.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
    )

    @field_validator("*")
    @classmethod
    def _refuse_unstorable_text(cls, value: object) -> object:
        for text in _texts(value):
            kind = find_secret(text)
            if kind:
                raise ValueError(f"holds {kind}, which would be stored with the run; set it in the environment or .env")
            if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
                raise ValueError("must be text that a UTF-8 file can hold")
        return value


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


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _texts(value: object) -> Iterator[str]:
    """Yields a value's texts; sections look at their own."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        yield from (item for item in value if isinstance(item, str))
