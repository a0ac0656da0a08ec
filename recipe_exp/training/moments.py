"""How an optimizer holds a moment of a weight between two steps: in the weight's own type, or in 8 bits."""

from __future__ import annotations

from functools import cache
from typing import Any, Protocol

import torch

from recipe_exp.training.rounding import StochasticRounding

BLOCK_ELEMENTS = 256
"""Elements that share one scale in 8 bits."""
# Biases and norms are few, and matter most.
_MIN_QUANTIZED_ELEMENTS = 4096


class Moments(Protocol):
    """Reads and writes parts of a weight's moments."""

    def create(self, state: dict[str, Any], name: str, weight: torch.Tensor) -> None:
        """Puts a moment of zeros into the weight's state."""

    def read(self, state: dict[str, Any], name: str, part: slice) -> torch.Tensor:
        """Returns a part of the flat moment in fp32, which is the caller's."""

    def write(self, state: dict[str, Any], name: str, part: slice, values: torch.Tensor) -> None:
        """Stores a part of the flat moment."""


class PlainMoments:
    """Moments of the weight's own type; those in bfloat16 are rounded stochastically.

    A running mean in bfloat16 would otherwise stop where a step changes it by less than half a unit in its last place.

    Args:
        rounding: of what is written.
    """

    def __init__(self, rounding: StochasticRounding) -> None:
        self.rounding = rounding

    def create(self, state: dict[str, Any], name: str, weight: torch.Tensor) -> None:
        """Puts a moment of zeros into the weight's state."""
        state[name] = torch.zeros_like(weight)

    def read(self, state: dict[str, Any], name: str, part: slice) -> torch.Tensor:
        """Returns a part of the flat moment in fp32."""
        stored: torch.Tensor = state[name]
        return stored.view(-1)[part].to(torch.float32, copy=True)

    def write(self, state: dict[str, Any], name: str, part: slice, values: torch.Tensor) -> None:
        """Stores a part of the flat moment."""
        self.rounding.write(state[name].view(-1)[part], values)


class QuantizedMoments:
    """Moments in 8 bits with a scale for each block, as in https://arxiv.org/abs/2110.02861; small weights' in fp32.

    A part begins and ends with a block, or with the weight.
    """

    def create(self, state: dict[str, Any], name: str, weight: torch.Tensor) -> None:
        """Puts a moment of zeros into the weight's state."""
        if weight.numel() < _MIN_QUANTIZED_ELEMENTS:
            state[name] = torch.zeros_like(weight, dtype=torch.float32)
            return
        num_blocks = -(-weight.numel() // BLOCK_ELEMENTS)
        zero = int((_code(name, weight.device) == 0).nonzero()[0])
        state[name] = torch.full_like(weight, zero, dtype=torch.uint8)
        state[_scales(name)] = torch.zeros(num_blocks, device=weight.device)

    def read(self, state: dict[str, Any], name: str, part: slice) -> torch.Tensor:
        """Returns a part of the flat moment in fp32."""
        stored: torch.Tensor = state[name].view(-1)[part]
        if stored.dtype != torch.uint8:
            return stored.clone()
        from bitsandbytes.functional import dequantize_blockwise

        scales = state[_scales(name)][_blocks(part)]
        values: torch.Tensor = dequantize_blockwise(
            stored, absmax=scales, code=_code(name, stored.device), blocksize=BLOCK_ELEMENTS
        )
        return values

    def write(self, state: dict[str, Any], name: str, part: slice, values: torch.Tensor) -> None:
        """Stores a part of the flat moment."""
        stored = state[name].view(-1)[part]
        if stored.dtype != torch.uint8:
            stored.copy_(values)
            return
        from bitsandbytes.functional import quantize_blockwise

        quantized, kept = quantize_blockwise(values, code=_code(name, stored.device), blocksize=BLOCK_ELEMENTS)
        stored.copy_(quantized)
        state[_scales(name)][_blocks(part)] = kept.absmax


def _blocks(part: slice) -> slice:
    return slice(part.start // BLOCK_ELEMENTS, -(-part.stop // BLOCK_ELEMENTS))


def _scales(name: str) -> str:
    return f"{name}_scales"


def _code(name: str, device: torch.device) -> torch.Tensor:
    """Returns the 256 values that 8 bits stand for; a second moment has no sign."""
    return _code_of(name != "exp_avg_sq", device)


@cache
def _code_of(is_signed: bool, device: torch.device) -> torch.Tensor:
    from bitsandbytes.functional import create_dynamic_map

    code: torch.Tensor = create_dynamic_map(signed=is_signed).to(device)  # type: ignore[no-untyped-call]
    return code
