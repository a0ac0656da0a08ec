"""Stochastic rounding to bfloat16: what a small update loses once, it keeps on average."""

from __future__ import annotations

import torch

# bfloat16 is the upper half of a 32-bit number.
_DROPPED_BITS = 16


class StochasticRounding:
    """Writes fp32 values into tensors of any floating type.

    A value between two neighbours in bfloat16 becomes the upper one with the probability of its place between them, so
    the expected value is the value (Gupta et al., 2015, https://arxiv.org/abs/1502.02551). What bfloat16 holds exactly
    stays as it is; fp32 is copied.
    """

    def __init__(self) -> None:
        self._seed = 0
        self._generators: dict[torch.device, torch.Generator] = {}

    def seed(self, seed: int) -> None:
        """Begins a stream of random numbers; the same one on every process keeps their weights equal."""
        self._seed = seed
        for generator in self._generators.values():
            generator.manual_seed(seed)

    def write(self, target: torch.Tensor, values: torch.Tensor) -> None:
        """Rounds fp32 values into a tensor of the same shape.

        Args:
            target: fp32 or bfloat16.
            values: fp32; their memory is used.
        """
        if target.dtype != torch.bfloat16:
            target.copy_(values)
            return
        bits = values.contiguous().view(torch.int32)
        noise = torch.randint(
            0, 1 << _DROPPED_BITS, bits.shape, dtype=torch.int32, device=bits.device, generator=self._of(bits.device)
        )
        rounded = noise.add_(bits).bitwise_and_(-(1 << _DROPPED_BITS))
        target.copy_(rounded.view(torch.float32))

    def _of(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[device]
