"""What makes a training run smaller, cheapest first."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from recipe_exp.config.model import ModelConfig
from recipe_exp.config.training import (
    AdafactorConfig,
    AdamW8bitConfig,
    AdamWConfig,
    LoraConfig,
    NoAdapterConfig,
    TrainingConfig,
)

_CHECKPOINTING = "model.gradient_checkpointing=true"
_BF16 = "training.precision=bf16"
_ADAFACTOR = "training/optimizer=adafactor"


@dataclass(frozen=True)
class Setup:
    """The part of a configuration that decides how much memory training needs.

    Attributes:
        model: the network.
        training: optimizer and adapter.
        precision: resolved, `fp32`, `tf32` or `bf16`.
        is_compiled: whether elementwise arithmetic is fused, so that nothing stands between its steps.
        is_padded: whether the network computes padding, as those of other families than T5's do.
    """

    model: ModelConfig
    training: TrainingConfig
    precision: str
    is_compiled: bool = False
    is_padded: bool = False


@dataclass(frozen=True)
class Change:
    """Overrides that lead to a smaller setup.

    Attributes:
        overrides: as typed on the command line.
        price: what they cost, in words.
        setup: what they lead to.
    """

    overrides: tuple[str, ...]
    price: str
    setup: Setup


_PRICES = {
    _CHECKPOINTING: "a quarter more time",
    _BF16: "rounds matrix products to bfloat16",
    _ADAFACTOR: "no first moment and a factored second one",
    "training=full_8bit": "weights in bfloat16 and moments in 8 bits; needs bitsandbytes",
    "training=full_low_memory": "weights in bfloat16, Adafactor within the backward pass, small steps",
    "training=lora": "tunes low-rank updates instead of every weight",
    "training=qlora": "the same over a base in 4 bits; needs bitsandbytes",
}
_BFLOAT16: dict[str, Any] = {"adapter": NoAdapterConfig(), "precision": "bf16", "weights_dtype": "bf16"}
# What the options of these names say of memory; the files stand under conf/training/.
_OPTIONS: dict[str, dict[str, Any]] = {
    "training=full_8bit": _BFLOAT16 | {"optimizer": AdamW8bitConfig(), "batch_size": 32},
    "training=full_low_memory": _BFLOAT16
    | {"optimizer": AdafactorConfig(), "update_in_backward": True, "max_grad_norm": None, "batch_size": 8},
    "training=lora": {"adapter": LoraConfig(), "optimizer": AdamWConfig(), "batch_size": 64},
    "training=qlora": {
        "adapter": LoraConfig(targets="all_linear", quantization="nf4"),
        "optimizer": AdamWConfig(),
        "batch_size": 64,
    },
}
_FULL: dict[str, Any] = {"weights_dtype": "fp32", "update_in_backward": False}


def changes(setup: Setup, device: str) -> Iterator[Change]:
    """Yields combinations of changes from the cheapest to the dearest; none repeats what the setup has already."""
    single = list(_single_changes(setup, device))
    # A change costs more than all before it together, so counting in binary visits them by price.
    for chosen in itertools.product((False, True), repeat=len(single)):
        names = [name for name, is_chosen in zip(reversed(single), chosen, strict=True) if is_chosen]
        if names and not _is_contradiction(names):
            yield _combine(setup, names)


def _is_contradiction(names: list[str]) -> bool:
    """Options bring an optimizer of their own, and all but LoRA's a precision."""
    options = [name for name in names if name in _OPTIONS]
    brings_precision = any("precision" in _OPTIONS[name] for name in options)
    return len(options) > 1 or (bool(options) and _ADAFACTOR in names) or (brings_precision and _BF16 in names)


def _single_changes(setup: Setup, device: str) -> Iterator[str]:
    training, is_gpu = setup.training, device == "cuda"
    if not setup.model.gradient_checkpointing:
        yield _CHECKPOINTING
    if setup.precision != "bf16" and is_gpu:
        yield _BF16
    if isinstance(training.adapter, LoraConfig):
        if training.adapter.quantization == "none" and is_gpu:
            yield "training=qlora"
        return
    if training.optimizer.kind == "adamw" and not training.update_in_backward:
        yield _ADAFACTOR
    if training.weights_dtype == "fp32" and is_gpu:
        yield "training=full_8bit"
    if not training.update_in_backward:
        yield "training=full_low_memory"
    yield "training=lora"
    if is_gpu:
        yield "training=qlora"


def _combine(setup: Setup, names: list[str]) -> Change:
    changed = setup
    for name in names:
        changed = _apply(changed, name)
    return Change(tuple(names), "; ".join(_PRICES[name] for name in names), changed)


def _apply(setup: Setup, name: str) -> Setup:
    match name:
        case "training.precision=bf16":
            return replace(setup, precision="bf16")
        case "model.gradient_checkpointing=true":
            return replace(setup, model=setup.model.model_copy(update={"gradient_checkpointing": True}))
        case "training/optimizer=adafactor":
            return replace(setup, training=setup.training.model_copy(update={"optimizer": AdafactorConfig()}))
        case _:
            option: dict[str, Any] = _FULL | _OPTIONS[name]
            training = setup.training.model_copy(update=option)
            return replace(setup, training=training, precision=option.get("precision", setup.precision))
