"""What every section of the configuration has in common."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Strings = Annotated[tuple[str, ...], Field(strict=False)]
Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class Section(BaseModel):
    """A frozen, strictly typed part of the configuration.

    An unknown key, a wrong type, NaN and infinity are refused; the docstring under each field is its documentation
    and reaches the JSON schema.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
    )


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
