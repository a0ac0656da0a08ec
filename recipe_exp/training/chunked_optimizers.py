"""Optimizers for little memory: one weight at a time, and of that a chunk after the other, in fp32.

Weights and moments may be held in bfloat16 or fewer bits; only a chunk of them is ever there in fp32. The gate of an
update stays on the device, so the host does not wait for it. In fp32 the updates are those of `torch.optim`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.optim import Optimizer

from recipe_exp.training.moments import Moments, PlainMoments
from recipe_exp.training.rounding import StochasticRounding

CHUNK_ELEMENTS = 4 * 2**20
"""Elements of a weight that are updated at the same time; a multiple of the blocks of quantised moments."""
# PyTorch takes the type's own, which in bfloat16 is larger than most gradients.
_ADAFACTOR_EPSILON = torch.finfo(torch.float32).eps
_SMALLEST_SCALE = 1e-3


def norm_in_chunks(tensor: torch.Tensor) -> torch.Tensor:
    """Returns the 2-norm of a vector or matrix in fp32, a scalar, without a copy of all of it in fp32."""
    # Row by row: a CPU adds up the squares of a whole embedding in one fp32 number, which is wrong in the fourth digit.
    parts = [torch.linalg.vector_norm(tensor[rows].float(), dim=-1).flatten() for rows in _row_parts(tensor)]
    norm: torch.Tensor = torch.linalg.vector_norm(torch.cat(parts))
    return norm


class ChunkedOptimizer(Optimizer):
    """What both rules share: the state of each weight, and the loop over weights.

    Args:
        groups: of weights, each with `weight_decay`.
        defaults: of what a group does not say.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], defaults: dict[str, Any]) -> None:
        super().__init__(groups, defaults)
        self.rounding = StochasticRounding()
        self._groups = {parameter: group for group in self.param_groups for parameter in group["params"]}

    def seed_rounding(self, seed: int) -> None:
        """Begins the random numbers of a step."""
        self.rounding.seed(seed)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Updates every weight that has a gradient."""
        if closure is not None:
            raise ValueError("a closure is not called")
        first = next(iter(self._groups))
        self.gated_step(torch.ones((), dtype=torch.bool, device=first.device))

    def gated_step(self, is_sound: torch.Tensor) -> None:
        """Updates every weight that has a gradient if `is_sound`, a boolean scalar on the device, holds."""
        for parameter in self._groups:
            if parameter.grad is not None:
                self.update(parameter, is_sound)

    @torch.no_grad()
    def update(self, parameter: torch.Tensor, is_sound: torch.Tensor) -> None:
        """Updates one weight by its gradient if `is_sound` holds; otherwise it and its state stay as they are."""
        if parameter.grad is None:
            raise ValueError("the weight has no gradient")
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)
            self.begin(parameter, state)
        state["step"] += is_sound
        self.apply(parameter.detach(), parameter.grad, state, self._groups[parameter], is_sound)

    @abstractmethod
    def begin(self, parameter: torch.Tensor, state: dict[str, Any]) -> None:
        """Makes the state of a weight before its first update."""

    @abstractmethod
    def apply(
        self,
        weight: torch.Tensor,
        gradient: torch.Tensor,
        state: dict[str, Any],
        group: dict[str, Any],
        is_sound: torch.Tensor,
    ) -> None:
        """Updates a weight and its state."""


class ChunkedAdamW(ChunkedOptimizer):
    """AdamW as `torch.optim.AdamW` computes it.

    Args:
        groups: of weights.
        betas: decay of the two moments.
        epsilon: added to the root of the second.
        moments: how they are held; None holds them in the weight's type.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        epsilon: float,
        moments: Moments | None = None,
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": epsilon, "weight_decay": 0.0})
        self.moments = moments or PlainMoments(self.rounding)

    def begin(self, parameter: torch.Tensor, state: dict[str, Any]) -> None:
        """Makes the state of a weight before its first update."""
        for name in ("exp_avg", "exp_avg_sq"):
            self.moments.create(state, name, parameter.detach())

    def apply(
        self,
        weight: torch.Tensor,
        gradient: torch.Tensor,
        state: dict[str, Any],
        group: dict[str, Any],
        is_sound: torch.Tensor,
    ) -> None:
        """Updates a weight and its state."""
        beta1, beta2 = group["betas"]
        size = group["lr"] / (1 - beta1 ** state["step"])
        correction = (1 - beta2 ** state["step"]).sqrt()
        flat_weight, flat_gradient = weight.view(-1), gradient.reshape(-1)
        for part in _parts(weight.numel(), CHUNK_ELEMENTS):
            slope = flat_gradient[part].float()
            before = self.moments.read(state, "exp_avg", part), self.moments.read(state, "exp_avg_sq", part)
            mean = before[0].lerp(slope, 1 - beta1)
            square = (before[1] * beta2).addcmul_(slope, slope, value=1 - beta2)
            old = flat_weight[part].float()
            change = mean.div(square.sqrt().div_(correction).add_(group["eps"])).mul_(size)
            new = (old * (1 - group["lr"] * group["weight_decay"])).sub_(change)
            self.rounding.write(flat_weight[part], torch.where(is_sound, new, old))
            self.moments.write(state, "exp_avg", part, torch.where(is_sound, mean, before[0]))
            self.moments.write(state, "exp_avg_sq", part, torch.where(is_sound, square, before[1]))


class ChunkedAdafactor(ChunkedOptimizer):
    """Adafactor as `torch.optim.Adafactor` computes it, a row and a column of fp32 for each matrix.

    Args:
        groups: of weights.
        beta2_decay: exponent of the second moment's decay over the step number.
        clip_threshold: updates with a larger root mean square are scaled down to it.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], *, lr: float, beta2_decay: float, clip_threshold: float
    ) -> None:
        defaults = {"lr": lr, "beta2_decay": beta2_decay, "clip_threshold": clip_threshold, "weight_decay": 0.0}
        super().__init__(groups, defaults)

    def begin(self, parameter: torch.Tensor, state: dict[str, Any]) -> None:
        """Makes the state of a weight before its first update."""
        if parameter.dim() == 1:
            state["variance"] = torch.zeros_like(parameter, dtype=torch.float32)
            return
        rows, columns = parameter.shape
        state["row_var"] = torch.zeros(rows, 1, device=parameter.device)
        state["col_var"] = torch.zeros(1, columns, device=parameter.device)

    def apply(
        self,
        weight: torch.Tensor,
        gradient: torch.Tensor,
        state: dict[str, Any],
        group: dict[str, Any],
        is_sound: torch.Tensor,
    ) -> None:
        """Updates a weight and its state."""
        step = state["step"]
        scale = (norm_in_chunks(weight) / weight.numel() ** 0.5).clamp_(min=_SMALLEST_SCALE)
        size = scale * torch.clamp(step.rsqrt(), max=group["lr"])
        self._remember(gradient, state, step ** group["beta2_decay"], is_sound)
        squares = torch.zeros((), device=weight.device)
        for rows in _row_parts(weight):
            squares += _direction(gradient, state, rows).square_().sum()
        excess = squares.sqrt() / (weight.numel() ** 0.5 * group["clip_threshold"])
        size = size / excess.clamp_(min=1.0)
        for rows in _row_parts(weight):
            old = weight[rows].float()
            new = old * (1 - group["lr"] * group["weight_decay"])
            new = new.sub_(_direction(gradient, state, rows).mul_(size))
            self.rounding.write(weight[rows], torch.where(is_sound, new, old))

    def _remember(
        self, gradient: torch.Tensor, state: dict[str, Any], share: torch.Tensor, is_sound: torch.Tensor
    ) -> None:
        """Takes the gradient's squares into the state: by row and by column, or one by one for a vector."""
        if gradient.dim() == 1:
            found = {"variance": gradient.float().square()}
        else:
            num_rows, num_columns = gradient.shape
            found = {name: torch.zeros_like(state[name]) for name in ("row_var", "col_var")}
            for rows in _row_parts(gradient):
                squares = gradient[rows].float().square()
                found["row_var"][rows] = squares.sum(dim=1, keepdim=True) / num_columns
                found["col_var"] += squares.sum(dim=0, keepdim=True) / num_rows
        for name, squares in found.items():
            state[name].copy_(torch.where(is_sound, state[name].lerp(squares, share), state[name]))


def _direction(gradient: torch.Tensor, state: dict[str, Any], rows: slice) -> torch.Tensor:
    """Returns the update of some rows before it is scaled: the gradient over the root of its estimated square."""
    if gradient.dim() == 1:
        estimate = state["variance"][rows].clone()
    else:
        mean = state["row_var"].mean(dim=0, keepdim=True).clamp_(min=_ADAFACTOR_EPSILON)
        estimate = (state["row_var"][rows] @ state["col_var"]).div_(mean)
    direction: torch.Tensor = estimate.clamp_(min=_ADAFACTOR_EPSILON**2).rsqrt_().mul_(gradient[rows])
    return direction


def _row_parts(tensor: torch.Tensor) -> Iterator[slice]:
    num_columns = tensor.numel() // len(tensor)
    return _parts(len(tensor), max(CHUNK_ELEMENTS // num_columns, 1))


def _parts(length: int, size: int) -> Iterator[slice]:
    return (slice(begin, min(begin + size, length)) for begin in range(0, length, size))
