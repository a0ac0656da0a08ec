"""What is held in memory from step to step, by dtype and kind: weights, gradients and the optimizer's state."""

from __future__ import annotations

import math
from dataclasses import dataclass

from recipe_exp.config.model import ModelConfig
from recipe_exp.config.training import AdafactorConfig, AdamW8bitConfig, LoraConfig, TrainingConfig
from recipe_exp.planning.parameters import (
    QUANTIZED_LAYERS,
    WeightGroup,
    count_lora_parameters,
    lora_groups,
    weight_groups,
)

# NF4 with double quantisation (Dettmers et al., 2023, https://arxiv.org/abs/2305.14314, section 3): 4 bits a weight, an
# 8-bit scale for 64 of them, and an fp32 scale for 256 of these.
_NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
# Moments in 8 bits have an fp32 scale for each block; those of small weights are in fp32.
_MOMENT_BLOCK = 256
_MIN_QUANTIZED_ELEMENTS = 4096
# What an update in chunks holds of a chunk in fp32: gradient, weight and moments before and after, and the rounding's
# bits. Adafactor has no moments of that size.
_CHUNK_BYTES = 16 * 2**20
_CHUNKS_AT_ONCE = {"adamw": 10, "adamw_8bit": 10, "adafactor": 5}


@dataclass(frozen=True)
class Held:
    """Bytes of one device.

    Attributes:
        weights: of the network, and of the adapter on it.
        gradients: of all weights that are tuned.
        optimizer: its state.
        update: what the update of the largest weight holds beyond these.
        weight_bytes: of one weight that is tuned, and of its gradient.
        is_full: whether every weight is tuned.
    """

    weights: int
    gradients: int
    optimizer: int
    update: int
    weight_bytes: int
    is_full: bool


def held(model: ModelConfig, training: TrainingConfig, *, is_bf16: bool) -> Held:
    """Returns what a run holds.

    Args:
        model: the network.
        training: adapter, optimizer and types.
        is_bf16: whether matrix products run in bfloat16.
    """
    groups = tuned_groups(model, training)
    weight_bytes = bytes_of_tuned_weight(training)
    num_tuned = sum(group.num_parameters for group in groups)
    return Held(
        weights=_weights(model, training, is_bf16=is_bf16),
        gradients=weight_bytes * num_tuned,
        optimizer=sum(_state_bytes(group, training) for group in groups),
        update=update_bytes(max((math.prod(group.size) for group in groups), default=0), training),
        weight_bytes=weight_bytes,
        is_full=not isinstance(training.adapter, LoraConfig),
    )


def tuned_groups(model: ModelConfig, training: TrainingConfig) -> list[WeightGroup]:
    """Returns the weights that training changes: the whole network's, or the adapter's."""
    if isinstance(training.adapter, LoraConfig):
        return lora_groups(model.shape, training.adapter)
    return weight_groups(model.shape)


def bytes_of_tuned_weight(training: TrainingConfig) -> int:
    """Returns the size of one weight that is tuned; adapters stay in fp32."""
    return 2 if training.weights_dtype == "bf16" and not isinstance(training.adapter, LoraConfig) else 4


def checkpoint_bytes(model: ModelConfig, training: TrainingConfig) -> int:
    """Returns the size of one checkpoint on disk: the tuned weights as they are held and the optimizer's state."""
    groups = tuned_groups(model, training)
    size = bytes_of_tuned_weight(training)
    return sum(
        size * _copies_on_disk(group, training) * group.num_parameters + _state_bytes(group, training)
        for group in groups
    )


def _copies_on_disk(group: WeightGroup, training: TrainingConfig) -> int:
    """An adapter that started at principal components is stored with them, at twice the rank."""
    is_pissa = isinstance(training.adapter, LoraConfig) and training.adapter.init == "pissa"
    return 2 if is_pissa and ".lora_" in group.name else 1


def _weights(model: ModelConfig, training: TrainingConfig, *, is_bf16: bool) -> int:
    """A frozen base is in bf16 when the computation is; of a quantised one, `wo`, embedding and head are not."""
    groups, lora = weight_groups(model.shape), training.adapter
    if not isinstance(lora, LoraConfig):
        return bytes_of_tuned_weight(training) * sum(group.num_parameters for group in groups)
    frozen = 2 if is_bf16 else 4
    size = 4.0 * count_lora_parameters(model.shape, lora)
    for group in groups:
        is_quantized = lora.quantization == "nf4" and group.name in QUANTIZED_LAYERS
        size += group.num_parameters * (_NF4_BYTES if is_quantized else frozen)
    return math.ceil(size)


def _state_bytes(group: WeightGroup, training: TrainingConfig) -> int:
    """AdamW keeps two moments of each weight; Adafactor a row and a column of each matrix, in fp32."""
    match training.optimizer:
        case AdafactorConfig():
            # A vector is not factored, and its length is the sum of its only dimension.
            return 4 * group.count * sum(group.size)
        case AdamW8bitConfig():
            num_elements = math.prod(group.size)
            if num_elements < _MIN_QUANTIZED_ELEMENTS:
                return 8 * group.num_parameters
            return 2 * group.count * (num_elements + 4 * math.ceil(num_elements / _MOMENT_BLOCK))
        case _:
            return 2 * bytes_of_tuned_weight(training) * group.num_parameters


def update_bytes(num_elements: int, training: TrainingConfig) -> int:
    """Returns what the update of a weight of so many elements holds beyond weight, gradient and state."""
    kind = training.optimizer.kind
    if kind == "adamw_8bit" or training.weights_dtype == "bf16" or training.update_in_backward:
        return _CHUNKS_AT_ONCE[kind] * min(4 * num_elements, _CHUNK_BYTES)
    # AdamW is one fused kernel; Adafactor updates one weight at a time, through a tensor of its size.
    return 0 if kind == "adamw" else 4 * num_elements
