"""What the model wrote before it was tuned: an anchor that is made once for a model, its examples and settings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from recipe_exp.config.model import ModelConfig
from recipe_exp.errors import DataError
from recipe_exp.evaluation.generation import Decoding
from recipe_exp.evaluation.scoring import keep
from recipe_exp.metrics.predictions import Prediction, encode_predictions, read_predictions

UNTUNED = "the untuned model"


def untuned_path(folder: Path, model: ModelConfig, decoding: Decoding, examples: Iterable[tuple[str, str]]) -> Path:
    """Returns the file of its predictions: for the same model, examples and way to write there is one.

    Args:
        folder: of what is known of evaluations.
        model: the pretrained model.
        decoding: how it writes; how much of it at once changes nothing.
        examples: prompt and reference of each.
    """
    way = (decoding.max_new_tokens, decoding.num_beams, decoding.sampling, decoding.max_source_tokens)
    digest = hashlib.sha256(repr((model.name, model.revision, way)).encode())
    for prompt, reference in examples:
        digest.update(f"{prompt}\0{reference}\0".encode("utf-8", "replace"))
    return folder / f"untuned-{digest.hexdigest()[:32]}.jsonl"


def read_untuned(path: Path) -> list[Prediction] | None:
    """Returns what is in that file; None if nothing can be read there."""
    try:
        return read_predictions(path) if path.is_file() else None
    except DataError:
        return None


def write_untuned(path: Path, predict: Callable[[], Sequence[Prediction]], *, is_main: bool) -> None:
    """Has it written, unless it is there; called on every process, written by the main one."""
    predictions = predict()
    if is_main:
        keep(path, encode_predictions(predictions))
