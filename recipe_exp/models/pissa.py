"""PiSSA: an adapter that starts at the principal components of each matrix, and its portable form.

The base keeps the residual W - s B0 A0, where B0 A0 are the components (Meng et al., 2024,
https://arxiv.org/abs/2404.02948). What was learnt is s (B A - B0 A0), a plain LoRA of twice the rank over the original
base: this is what checkpoints and models hold, so that any reader of LoRA understands them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

# Of randomised subspace iteration (Halko et al., 2011, https://arxiv.org/abs/0909.4061). What the components miss stays
# in the base, so that they need not be exact.
_NUM_ITERATIONS = 8
_NUM_SPARE_COMPONENTS = 8
_SEED = 0

State = dict[str, torch.Tensor]


@dataclass
class PissaStart:
    """The factors that an adapter started from, by the name of the layer, on the CPU.

    Attributes:
        factors: A0 (rank, inputs) and B0 (outputs, rank) of each layer.
    """

    factors: dict[str, tuple[torch.Tensor, torch.Tensor]]


def principal_factors(weight: torch.Tensor, rank: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns A0 (rank, inputs) and B0 (outputs, rank), whose product times the scale has the largest components.

    The random state is left as it is, and the same matrix always gives the same factors on the same machinery.

    Args:
        weight: (outputs, inputs).
        rank: number of components.
        scale: of the adapter.
    """
    matrix = weight.detach().float().cpu()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        num_components = min(rank + _NUM_SPARE_COMPONENTS, *matrix.shape)
        left, values, right = torch.svd_lowrank(matrix, q=num_components, niter=_NUM_ITERATIONS)
    root = (values[:rank] / scale).sqrt()
    return root[:, None] * right[:, :rank].T, left[:, :rank] * root


def principal_start(layers: Mapping[str, Any], rank: int, scale: float) -> PissaStart:
    """Returns the principal factors of the base of every layer.

    Args:
        layers: adapted linear layers by name, over their original base.
        rank: of the adapter.
        scale: of the adapter.
    """
    return PissaStart({name: principal_factors(_base(layer), rank, scale) for name, layer in layers.items()})


def take_out(layers: Mapping[str, Any], start: PissaStart, scale: float) -> None:
    """Starts every adapted layer at these factors, and leaves the rest in the base.

    Args:
        layers: adapted linear layers by name, over their original base.
        start: their factors.
        scale: of the adapter.
    """
    for name, layer in layers.items():
        first, second = start.factors[name]
        _leave_residual(layer, _base(layer), first, second, scale)
        with torch.no_grad():
            _factor(layer, "lora_A").copy_(first)
            _factor(layer, "lora_B").copy_(second)


def to_portable(state: State, start: PissaStart) -> State:
    """Returns an adapter's weights as a plain LoRA of twice the rank: [A; A0] and [B, -B0]."""
    portable = dict(state)
    for name, (first, second) in start.factors.items():
        key_a, key_b = f"{name}.lora_A.weight", f"{name}.lora_B.weight"
        portable[key_a] = torch.cat([state[key_a], first.to(state[key_a].device)], dim=0)
        portable[key_b] = torch.cat([state[key_b], -second.to(state[key_b].device)], dim=1)
    return portable


def from_portable(state: State) -> tuple[State, PissaStart]:
    """Returns the adapter's own weights and what it started from, of what `to_portable` returned."""
    own, factors = dict(state), {}
    for key_a in [key for key in state if key.endswith(".lora_A.weight")]:
        name = key_a.removesuffix(".lora_A.weight")
        key_b = f"{name}.lora_B.weight"
        rank = state[key_a].shape[0] // 2
        own[key_a], own[key_b] = state[key_a][:rank].contiguous(), state[key_b][:, :rank].contiguous()
        # A copy, because what was read is mapped from a file that training will remove.
        factors[name] = state[key_a][rank:].cpu().clone(), -state[key_b][:, rank:].cpu()
    return own, PissaStart(factors)


def replace_start(
    layers: Mapping[str, Any],
    present: PissaStart,
    wanted: PissaStart,
    scale: float,
    read_base: Callable[[], nn.Module],
) -> None:
    """Makes every base the residual that belongs to another start; the adapter's factors are left alone.

    Args:
        layers: adapted linear layers by name.
        present: what they started from.
        wanted: what they are to have started from.
        scale: of the adapter.
        read_base: returns the network with its original weights; called only if something differs.
    """
    differing = [
        name for name, factors in wanted.factors.items() if not all(map(torch.equal, factors, present.factors[name]))
    ]
    if not differing:
        return
    original = dict(read_base().named_modules())
    for name in differing:
        weight = original[name.removeprefix("base_model.model.")].weight
        _leave_residual(layers[name], weight, *wanted.factors[name], scale)
    present.factors.update(wanted.factors)


def _leave_residual(layer: Any, weight: torch.Tensor, first: torch.Tensor, second: torch.Tensor, scale: float) -> None:
    residual = weight.detach().float().cpu() - scale * (second @ first)
    with torch.no_grad():
        _base(layer).copy_(residual)


def _base(layer: Any) -> torch.Tensor:
    weight: torch.Tensor = layer.get_base_layer().weight
    return weight


def _factor(layer: Any, name: str) -> torch.Tensor:
    factor: torch.Tensor = getattr(layer, name)["default"].weight
    return factor
