"""A run's model as a plain transformers folder, and what it answered before it was written."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch

from recipe_exp.data.tokens.tokenizer import RecipeTokenizer
from recipe_exp.models import load
from recipe_exp.models.base_weights import read_facts
from recipe_exp.models.finetuned import load_model_folder
from recipe_exp.models.plain_check import record_answers

ExportType = Literal["fp32", "bf16"]
EXACT, WRITTEN, EVALUATED = "exact", "written", "as_evaluated"
"""Whose answers are recorded: of the training model in fp32, of its weights in the type that is written, and of the
training model in the precision in which the run was evaluated."""


def write_model(
    source: Path,
    folder: Path,
    *,
    dtype: ExportType,
    probes: Sequence[dict[str, Any]],
    answers: Path,
    max_new_tokens: int,
) -> None:
    """Writes a model, merged if it is an adapter, with its tokenizer, and records what it answered before.

    One network is held at a time: its answers are recorded, then it is merged in place and written.

    Args:
        source: the `model/` folder of a run, a checkpoint, or any plain T5 or LoRA folder.
        folder: gets the files; it exists.
        dtype: of the written weights.
        probes: as `record_answers` takes them.
        answers: folder for the records, `exact.safetensors`, and `written.safetensors` where rounding changes weights.
        max_new_tokens: longest recorded generation.

    Raises:
        ModelError: if the model cannot be loaded, or its base is another than it was trained on.
    """
    network = load_model_folder(source)
    record_answers(network, probes, answers / f"{EXACT}.safetensors", max_new_tokens=max_new_tokens)
    if hasattr(network, "peft_config"):
        from recipe_exp.models import adapters

        network = adapters.merge_adapter(network)
    network.eval()
    if dtype == "bf16":
        network = network.to(torch.bfloat16)
    load.save_plain(network, folder)
    RecipeTokenizer.from_pretrained(source).save(folder)
    if dtype == "bf16":
        network = network.float()
        record_answers(network, probes, answers / f"{WRITTEN}.safetensors", max_new_tokens=max_new_tokens)
    del network
    gc.collect()


def record_evaluated(
    source: Path, *, precision: str, probes: Sequence[dict[str, Any]], answers: Path, max_new_tokens: int
) -> str | None:
    """Records what the model answers in the precision of the run's evaluations, where that is not fp32.

    Returns:
        Why it was not recorded; None if it was.
    """
    quantization = read_facts(source).quantization
    if precision != "bf16" and quantization == "none":
        return "it was evaluated in fp32"
    if quantization != "none" and not _can_quantize():
        return f"its base was {quantization} in training, and bitsandbytes is not installed here"
    network = load_model_folder(source, precision=precision, as_trained=True)
    with torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext():
        record_answers(network, probes, answers / f"{EVALUATED}.safetensors", max_new_tokens=max_new_tokens)
    del network
    gc.collect()
    return None


def _can_quantize() -> bool:
    from recipe_exp.models import quantized

    return quantized.is_available()
