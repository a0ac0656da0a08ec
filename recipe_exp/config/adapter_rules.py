"""What an adapter cannot be combined with, and which layers it can be laid on, as far as the configuration tells."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from recipe_exp.config.lora_targets import adapted_modules, linear_modules, mistake_of_targets
from recipe_exp.config.messages import show_value
from recipe_exp.config.model import ModelConfig
from recipe_exp.config.training import LoraConfig

if TYPE_CHECKING:
    from recipe_exp.config.experiment import ExperimentConfig

# Where a name would mean the run that is being continued.
_NEWEST = "latest"


def adapter_contradictions(config: ExperimentConfig) -> Iterator[str]:
    """Yields one line for each key of the adapter that cannot hold beside the others; each names the remedy."""
    if config.model.name == _NEWEST == config.resume:
        yield _newest_of_two("model.name")
    lora = config.training.adapter
    if not isinstance(lora, LoraConfig):
        return
    yield from _size_contradictions(config.model, lora)
    optimizer = config.training.optimizer.kind
    if lora.learning_rate_ratio is not None and not optimizer.startswith("adamw"):
        yield (
            f"training.adapter.learning_rate_ratio={lora.learning_rate_ratio:g}: {optimizer} moves a weight by a share "
            "of its size, not by a rate; take training/optimizer=adamw or set it to null"
        )
    if lora.quantization != "none":
        yield from _quantization_contradictions(config, lora)
    if lora.start_from == _NEWEST == config.resume:
        yield _newest_of_two("training.adapter.start_from")


def _size_contradictions(model: ModelConfig, lora: LoraConfig) -> Iterator[str]:
    if lora.rank > model.shape.d_model:
        yield (
            f"training.adapter.rank={lora.rank}: more than the model's width (model.shape.d_model="
            f"{model.shape.d_model}) adds weights and no freedom; lower it"
        )
        return
    mistake = mistake_of_targets(linear_modules(model.shape), lora.targets, "T5 v1.1") if _is_t5(model, lora) else None
    if mistake is not None:
        yield mistake
    sizes = [min(size) for size in adapted_modules(model.shape, lora.targets).values()]
    if lora.init == "pissa" and sizes and lora.rank > min(sizes):
        yield (
            f"training.adapter.rank={lora.rank}: the smallest matrix of training.adapter.targets="
            f"{show_value(lora.targets)} has {min(sizes)} components, and init=pissa takes rank of them; lower it"
        )


def _is_t5(model: ModelConfig, lora: LoraConfig) -> bool:
    """Whether the layers' names are known without the model; the first T5 alone has a `wi`."""
    if not model.pretrained:
        return True
    is_first = not isinstance(lora.targets, str) and any(name.rpartition(".")[2] == "wi" for name in lora.targets)
    return "t5" in model.name.rpartition("/")[2].lower() and not is_first


def _quantization_contradictions(config: ExperimentConfig, lora: LoraConfig) -> Iterator[str]:
    key = f"training.adapter.quantization={lora.quantization}"
    if lora.init == "pissa":
        yield (
            f"{key}: what init=pissa leaves of the base would be quantised, and the adapter would fit no other base; "
            "set training.adapter.init=lora or quantization=none"
        )
    if config.hardware.num_processes != 1:
        yield f"{key}: a quantised base stays on one device; set hardware.num_processes=1"


def _newest_of_two(key: str) -> str:
    return f"{key}=latest: with resume=latest it would name the run that is continued; name the run by its id"
