"""The elementwise parts of a T5 block as differentiable functions that keep as little as their backward pass needs."""

from __future__ import annotations

from typing import Any

import torch

from recipe_exp import kept_memory
from recipe_exp.models.unpadded.compiling import Kernels
from recipe_exp.models.unpadded.counter_dropout import Site, drop_of


def embedded(weight: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Returns the rows of an embedding, (tokens, width); its gradient is made in kept memory.

    Args:
        weight: (vocabulary, width), on a CPU: another device would add rows of the same id in any order.
        ids: int64, (tokens,).
    """
    rows: torch.Tensor = _Embedded.apply(weight, ids)  # type: ignore[no-untyped-call]
    return rows


class _Embedded(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, weight: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        context.ids, context.shape = ids, weight.shape
        return weight.index_select(0, ids)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        of_weight = kept_memory.empty(context.shape, dtype=gradient.dtype, device=gradient.device).zero_()
        return of_weight.index_add_(0, context.ids, gradient), None


def dropout(values: torch.Tensor, site: Site | None, kernels: Kernels) -> torch.Tensor:
    """Returns values with dropout; keeps a key for each token.

    Args:
        values: (tokens, width).
        site: where this is; None without dropout.
        kernels: that compute it.
    """
    if site is None:
        return values
    result: torch.Tensor = _Dropout.apply(values, site, kernels)  # type: ignore[no-untyped-call]
    return result


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: torch.Tensor, site: Site, kernels: Kernels) -> torch.Tensor:
        context.site, context.kernels = site, kernels
        result: torch.Tensor = kernels.dropped(values, drop_of(site, values))
        return result

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        return context.kernels.dropped(gradient, drop_of(context.site, gradient)), None, None


def add_and_norm(
    stream: torch.Tensor,
    update: torch.Tensor | None,
    norm: Any,
    site: Site | None,
    dtype: torch.dtype,
    kernels: Kernels,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the residual stream with a layer's output under dropout added to it, and its norm.

    It keeps the stream and a factor for each token.

    Args:
        stream: (tokens, width).
        update: (tokens, width), or None where there is nothing to add.
        norm: T5's layer norm.
        site: of the dropout; None without it.
        dtype: of the norm.
        kernels: that compute it.
    """
    epsilon = norm.variance_epsilon
    if update is None:
        return stream, _Norm.apply(stream, norm.weight, epsilon, dtype, kernels)  # type: ignore[no-untyped-call]
    added, normed = _AddAndNorm.apply(  # type: ignore[no-untyped-call]
        stream, update, norm.weight, epsilon, dtype, site, kernels
    )
    return added, normed


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        stream: torch.Tensor,
        weight: torch.Tensor,
        epsilon: float,
        dtype: torch.dtype,
        kernels: Kernels,
    ) -> torch.Tensor:
        result: torch.Tensor
        result, factor = kernels.normed(stream, weight, epsilon, dtype)
        context.save_for_backward(stream, weight, factor)
        context.kernels = kernels
        return result

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        stream, weight, factor = context.saved_tensors
        passing = torch.zeros((), dtype=stream.dtype, device=stream.device).expand_as(stream)
        back, _, of_weight = context.kernels.normed_backward(gradients[0], passing, stream, weight, factor, None)
        return back, of_weight.to(weight.dtype), None, None, None


class _AddAndNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        stream: torch.Tensor,
        update: torch.Tensor,
        weight: torch.Tensor,
        epsilon: float,
        dtype: torch.dtype,
        site: Site | None,
        kernels: Kernels,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        added, normed, factor = kernels.added_and_normed(stream, update, weight, epsilon, dtype, drop_of(site, stream))
        context.save_for_backward(added, weight, factor)
        context.update_dtype, context.site, context.kernels = update.dtype, site, kernels
        return added, normed

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        stream, weight, factor = context.saved_tensors
        back, of_update, of_weight = context.kernels.normed_backward(
            gradients[1], gradients[0], stream, weight, factor, drop_of(context.site, stream)
        )
        return back, of_update.to(context.update_dtype), of_weight.to(weight.dtype), None, None, None, None


def gated_gelu(gate: torch.Tensor, value: torch.Tensor, site: Site | None, kernels: Kernels) -> torch.Tensor:
    """Returns `gelu(gate) * value` under dropout; keeps both arguments.

    Args:
        gate: (tokens, d_ff).
        value: (tokens, d_ff).
        site: of the dropout; None without it.
        kernels: that compute it.
    """
    result: torch.Tensor = _GatedGelu.apply(gate, value, site, kernels)  # type: ignore[no-untyped-call]
    return result


class _GatedGelu(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, gate: torch.Tensor, value: torch.Tensor, site: Site | None, kernels: Kernels
    ) -> torch.Tensor:
        context.save_for_backward(gate, value)
        context.site, context.kernels = site, kernels
        result: torch.Tensor = kernels.gated_gelu(gate, value, drop_of(site, gate))
        return result

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gate, value = context.saved_tensors
        backward = context.kernels.gated_gelu_backward(gradients[0], gate, value, drop_of(context.site, gate))
        return *backward, None, None
