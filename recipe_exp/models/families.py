"""The encoder-decoders that can be tuned: what transformers calls their networks, and what is unknown of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Family:
    """Networks of one architecture.

    Attributes:
        network: name of the class in transformers.
        start_id: what the decoder reads first.
        pad_id: what fills up a batch.
        eos_id: what ends a text.
        unknown: what was never measured of it, in one line; None where nothing is known to be missing.
    """

    network: str
    start_id: int
    pad_id: int
    eos_id: int
    unknown: str | None = None


FAMILIES: Mapping[str, Family] = {
    "t5": Family("T5ForConditionalGeneration", start_id=0, pad_id=0, eos_id=1),
    "mt5": Family(
        "MT5ForConditionalGeneration",
        start_id=0,
        pad_id=0,
        eos_id=1,
        unknown="mT5's network is T5's, and so are memory and time; learning rates that suit it and the quality of its "
        "recipes were never measured",
    ),
}
"""By the `model_type` of a config.json."""


def family_of(model_type: Any) -> Family | None:
    """Returns the family that a config.json names; None for one that cannot be tuned here."""
    return FAMILIES.get(model_type) if isinstance(model_type, str) else None
