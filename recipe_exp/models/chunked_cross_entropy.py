"""Cross-entropy over a large vocabulary without a matrix of logits for all tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from recipe_exp.models.unpadded.compiling import UNCOMPILED, Kernels

MAX_LOGITS_BYTES = 64 * 2**20
"""Bytes of fp32 logits that are there at the same time, several times over while their gradient is made."""


def summed_cross_entropy(
    hidden: torch.Tensor,
    head: nn.Linear,
    labels: torch.Tensor,
    *,
    label_smoothing: float = 0.0,
    kernels: Kernels = UNCOMPILED,
) -> torch.Tensor:
    """Returns the sum of the cross-entropy of every token in fp32, a scalar.

    The products with the vocabulary are computed in the type that autocast asks for, the rest in fp32. The gradient is
    made beside the loss, a chunk of tokens after the other, so the backward pass multiplies it with a number and
    computes nothing again.

    Args:
        hidden: (tokens, width), what the output projection reads.
        head: the output projection, without bias.
        labels: (tokens,), one id for each.
        label_smoothing: share of the target distribution spread evenly over the vocabulary.
        kernels: that compute softmax and gradient.
    """
    is_autocast = torch.is_autocast_enabled(hidden.device.type)
    dtype = torch.get_autocast_dtype(hidden.device.type) if is_autocast else head.weight.dtype
    with torch.autocast(hidden.device.type, enabled=False):
        loss: torch.Tensor = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
            hidden.to(dtype), head.weight, labels, label_smoothing, kernels
        )
    return loss


def tokens_at_once(vocab_size: int) -> int:
    """Returns how many tokens share a chunk."""
    return max(MAX_LOGITS_BYTES // (4 * vocab_size), 1)


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        labels: torch.Tensor,
        smoothing: float,
        kernels: Kernels,
    ) -> torch.Tensor:
        cast = weight.to(hidden.dtype)
        needs_hidden, needs_weight = context.needs_input_grad[:2]
        hidden_gradient = torch.empty_like(hidden) if needs_hidden else None
        weight_gradient: torch.Tensor | None = None
        loss = torch.zeros((), device=hidden.device)
        size = tokens_at_once(len(weight))
        for begin in range(0, len(hidden), size):
            part = hidden[begin : begin + size]
            logits = part @ cast.T
            if hidden_gradient is None:
                loss += kernels.summed_loss(logits, labels[begin : begin + size], smoothing)
                continue
            sums, gradient = kernels.loss_and_gradient(logits, labels[begin : begin + size], smoothing, hidden.dtype)
            loss += sums
            torch.mm(gradient, cast, out=hidden_gradient[begin : begin + size])
            if needs_weight:
                if weight_gradient is not None and weight_gradient.dtype != torch.float32:
                    weight_gradient = weight_gradient.float()
                weight_gradient = _plus_product(weight_gradient, gradient, part)
        context.hidden_gradient = hidden_gradient
        context.weight_gradient = torch.zeros_like(weight) if needs_weight and len(hidden) == 0 else weight_gradient
        context.weight_dtype = weight.dtype
        return loss

    @staticmethod
    def backward(context: Any, *factors: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (factor,) = factors
        if context.hidden_gradient is None:
            raise RuntimeError("the gradient of a chunked cross-entropy is there once")
        hidden, weight = context.hidden_gradient, context.weight_gradient
        context.hidden_gradient = context.weight_gradient = None
        hidden *= factor
        if weight is not None:
            weight *= factor
            weight = weight.to(context.weight_dtype)
        return hidden, weight, None, None, None


def _plus_product(total: torch.Tensor | None, gradient: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """Returns the gradient of the projection's weight, in fp32 if there is one already, with a chunk's share."""
    if total is None:
        return gradient.T @ part
    if gradient.dtype == torch.float32:
        return total.addmm_(gradient.T, part)
    return total.add_(gradient.T @ part)
