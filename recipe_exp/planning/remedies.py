"""What makes a training run smaller, cheapest first."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from recipe_exp.config.model import ModelConfig
from recipe_exp.config.training import AdafactorConfig, AdamWConfig, LoraConfig, NoAdapterConfig, TrainingConfig

# Batch size of the option `training=lora`.
_LORA_BATCH_SIZE = 64


@dataclass(frozen=True)
class Setup:
    """The part of a configuration that decides how much memory training needs.

    Attributes:
        model: the network.
        training: optimizer and adapter.
        precision: resolved, `fp32`, `tf32` or `bf16`.
    """

    model: ModelConfig
    training: TrainingConfig
    precision: str


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


def changes(setup: Setup, device: str) -> Iterator[Change]:
    """Yields combinations of changes from the cheapest to the dearest; none repeats what the setup has already."""
    single = list(_single_changes(setup, device))
    # A change costs more than all before it together, so counting in binary visits them by price.
    for chosen in itertools.product((False, True), repeat=len(single)):
        names = [name for name, is_chosen in zip(reversed(single), chosen, strict=True) if is_chosen]
        # Choosing `training=lora` brings its own optimizer.
        if names and not {"training/optimizer=adafactor", "training=lora"} <= set(names):
            yield _combine(setup, names)


_PRICES = {
    "training.precision=bf16": "rounds matrix products to bfloat16",
    "model.gradient_checkpointing=true": "a third more time",
    "training/optimizer=adafactor": "no first moment and a factored second one",
    "training=lora": "tunes low-rank updates instead of every weight",
}


def _single_changes(setup: Setup, device: str) -> Iterator[str]:
    if setup.precision != "bf16" and device == "cuda":
        yield "training.precision=bf16"
    if not setup.model.gradient_checkpointing:
        yield "model.gradient_checkpointing=true"
    if isinstance(setup.training.optimizer, AdamWConfig) and isinstance(setup.training.adapter, NoAdapterConfig):
        yield "training/optimizer=adafactor"
    if isinstance(setup.training.adapter, NoAdapterConfig):
        yield "training=lora"


def _combine(setup: Setup, names: list[str]) -> Change:
    changed = setup
    for name in names:
        changed = _apply(changed, name)
    return Change(tuple(names), "; ".join(_PRICES[name] for name in names), changed)


def _apply(setup: Setup, name: str) -> Setup:
    model, training, precision = setup.model, setup.training, setup.precision
    match name:
        case "training.precision=bf16":
            return Setup(model, training, "bf16")
        case "model.gradient_checkpointing=true":
            return Setup(model.model_copy(update={"gradient_checkpointing": True}), training, precision)
        case "training/optimizer=adafactor":
            return Setup(model, training.model_copy(update={"optimizer": AdafactorConfig()}), precision)
        case _:
            update = {"adapter": LoraConfig(), "optimizer": AdamWConfig(), "batch_size": _LORA_BATCH_SIZE}
            return Setup(model, training.model_copy(update=update), precision)
