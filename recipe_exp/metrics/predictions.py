"""Generated recipes beside what they are compared with, and the files that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from recipe_exp.errors import DataError
from recipe_exp.files import reason_of


@dataclass(frozen=True)
class Prediction:
    """One generated recipe.

    Attributes:
        prompt: what was asked.
        reference: the held-out recipe.
        generated: what was written.
        prompt_ingredients: the ingredients that the prompt asked for; None where that has to be found in the prompt.
        source: where the held-out recipe came from, empty if unknown.
        title: of the held-out recipe; empty if unknown.
    """

    prompt: str
    reference: str
    generated: str
    prompt_ingredients: tuple[str, ...] | None = None
    source: str = ""
    title: str = ""


class _Line(msgspec.Struct, omit_defaults=True):
    """A line of a predictions file; other fields are passed over."""

    prompt: str
    reference: str
    prediction: str
    prompt_ingredients: tuple[str, ...] | None = None
    source: str = ""
    title: str = ""


_DECODER = msgspec.json.Decoder(_Line)


def encode_predictions(predictions: Sequence[Prediction]) -> bytes:
    """Returns them as JSONL, a line each with `prompt`, `reference` and `prediction`, and what else is known."""
    lines = (
        _Line(each.prompt, each.reference, each.generated, each.prompt_ingredients, each.source, each.title)
        for each in predictions
    )
    return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)


def read_predictions(path: Path) -> list[Prediction]:
    """Returns the predictions of a JSONL file, whoever wrote it.

    Raises:
        DataError: if the file cannot be read, a line is not of the form, or there is none.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({reason_of(error)})") from None
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            read = _DECODER.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise DataError(
                f'{path}:{number}: {error}; each line is {{"prompt": ..., "reference": ..., "prediction": ...}}'
            ) from None
        found.append(
            Prediction(read.prompt, read.reference, read.prediction, read.prompt_ingredients, read.source, read.title)
        )
    if not found:
        raise DataError(f"{path}: no predictions; each line is one, as JSON")
    return found
