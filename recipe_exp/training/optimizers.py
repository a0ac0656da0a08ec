"""Optimizers: which weights decay, and an update that a non-finite gradient cannot reach."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Adafactor, AdamW, Optimizer

from recipe_exp.config.training import AdafactorConfig, AdamW8bitConfig, AdamWConfig, LoraConfig, TrainingConfig
from recipe_exp.training.chunked_optimizers import ChunkedAdafactor, ChunkedAdamW, ChunkedOptimizer
from recipe_exp.training.moments import QuantizedMoments

# DoRA's magnitudes scale an output, as layer norms do.
_EXEMPT_FROM_DECAY = ("layer_norm", "relative_attention_bias", "bias", "lora_magnitude_vector")


def build_optimizer(model: nn.Module, training: TrainingConfig) -> Optimizer:
    """Returns the optimizer over the trainable weights.

    Weight decay spares layer norms, biases and relative position biases. AdamW runs as one fused kernel; what is held
    in bfloat16 or 8 bits, or updated within the backward pass, is updated one weight at a time.
    """
    ratio = training.adapter.learning_rate_ratio if isinstance(training.adapter, LoraConfig) else None
    groups, rate = parameter_groups(model, training.weight_decay, ratio), training.learning_rate
    is_chunked = training.weights_dtype == "bf16" or training.update_in_backward
    match training.optimizer:
        case AdamWConfig(beta1=beta1, beta2=beta2, epsilon=epsilon) if is_chunked:
            return ChunkedAdamW(groups, lr=rate, betas=(beta1, beta2), epsilon=epsilon)
        case AdamWConfig(beta1=beta1, beta2=beta2, epsilon=epsilon):
            return AdamW(groups, lr=rate, betas=(beta1, beta2), eps=epsilon, fused=True)
        case AdamW8bitConfig(beta1=beta1, beta2=beta2, epsilon=epsilon):
            return ChunkedAdamW(groups, lr=rate, betas=(beta1, beta2), epsilon=epsilon, moments=QuantizedMoments())
        case AdafactorConfig(beta2_decay=decay, clip_threshold=threshold) if is_chunked:
            return ChunkedAdafactor(groups, lr=rate, beta2_decay=decay, clip_threshold=threshold)
        case AdafactorConfig(beta2_decay=decay, clip_threshold=threshold):
            return Adafactor(groups, lr=rate, beta2_decay=decay, d=threshold)


def parameter_groups(
    model: nn.Module, weight_decay: float, learning_rate_ratio: float | None = None
) -> list[dict[str, Any]]:
    """Returns the trainable weights in groups: with decay, without, and of LoRA+ the factors B.

    Args:
        model: with the weights.
        weight_decay: of the weights that are not exempt.
        learning_rate_ratio: rate of LoRA's B over all others', the group's `lr_scale`; None groups B with the rest.
    """
    decayed: list[nn.Parameter] = []
    exempt: list[nn.Parameter] = []
    faster: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if any(part in name for part in _EXEMPT_FROM_DECAY):
            exempt.append(parameter)
        elif learning_rate_ratio is not None and ".lora_B." in name:
            faster.append(parameter)
        else:
            decayed.append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": exempt, "weight_decay": 0.0},
        {"params": faster, "weight_decay": weight_decay, "lr_scale": learning_rate_ratio},
    ]
    return [group for group in groups if group["params"]]


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Sets the rate that the next update uses; a group's `lr_scale` multiplies it."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("lr_scale", 1.0)


def gated_step(optimizer: Optimizer, is_finite: torch.Tensor, divisor: torch.Tensor | None = None) -> None:
    """Updates the weights if `is_finite` holds; otherwise weights and moments stay exactly as they are.

    The gate is read on the device, so the host does not wait for it; only Adafactor in fp32 waits.

    Args:
        optimizer: with gradients in place.
        is_finite: a boolean scalar on the gradients' device.
        divisor: of the gradients, a scalar there; AdamW in fp32 divides while it updates. None leaves them.
    """
    if divisor is not None and not isinstance(optimizer, AdamW):
        for parameter in (each for group in optimizer.param_groups for each in group["params"]):
            if parameter.grad is not None:
                parameter.grad.div_(divisor)
    if isinstance(optimizer, ChunkedOptimizer):
        optimizer.gated_step(is_finite)
    elif isinstance(optimizer, AdamW):
        optimizer.grad_scale = divisor  # type: ignore[attr-defined]
        optimizer.found_inf = (~is_finite).float()  # type: ignore[attr-defined]
        optimizer.step()
    elif bool(is_finite):
        optimizer.step()


def named_optimizer_state(model: nn.Module, optimizer: Optimizer) -> dict[str, torch.Tensor]:
    """Returns the moments as flat tensors named `WEIGHT::MOMENT`, independent of the order of the weights."""
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}::{key}": torch.as_tensor(value).contiguous()
        for parameter, entries in optimizer.state.items()
        for key, value in entries.items()
    }


def load_named_optimizer_state(model: nn.Module, optimizer: Optimizer, state: dict[str, torch.Tensor]) -> None:
    """Puts moments back that `named_optimizer_state` returned.

    Raises:
        KeyError: if a name is not a weight of this model.
    """
    parameters = dict(model.named_parameters())
    optimizer.state.clear()
    for flat_name, value in state.items():
        name, _, key = flat_name.rpartition("::")
        parameter = parameters[name]
        # Adafactor counts its steps on the CPU; every other entry lives beside the weight.
        device = "cpu" if key == "step" and isinstance(optimizer, Adafactor) else parameter.device
        # A copy, because what was read is mapped from a file that training will remove.
        optimizer.state[parameter][key] = value.to(device, copy=True)
