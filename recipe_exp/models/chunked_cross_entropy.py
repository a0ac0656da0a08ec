"""Cross-entropy over a large vocabulary without a matrix of logits for all tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from recipe_exp import kept_memory
from recipe_exp.models.unpadded.compiling import UNCOMPILED, Kernels

MAX_LOGITS_BYTES = 128 * 2**20
"""Bytes of fp32 logits that are there at the same time; two and a half times that in bf16 where nothing is compiled."""
MAX_TOKENS = 1024
"""Tokens whose logits are there at the same time. More make no product faster."""


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
    return min(max(MAX_LOGITS_BYTES // (4 * vocab_size), 1), MAX_TOKENS)


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
        needs_hidden, needs_weight = context.needs_input_grad[:2]
        entries = weight.to(hidden.dtype)
        num_chunks = max(-(-len(hidden) // tokens_at_once(len(weight))), 1)
        size = max(-(-len(hidden) // num_chunks), 1)
        buffer = kept_memory.empty((size, len(weight)), dtype=hidden.dtype, device=hidden.device)
        mean_entry = weight.mean(dim=0, dtype=torch.float32) if smoothing else None
        hidden_gradient = torch.empty_like(hidden) if needs_hidden else None
        weight_gradient = None
        if needs_weight:
            dtype = hidden.dtype if num_chunks == 1 else torch.float32
            weight_gradient = kept_memory.empty(weight.shape, dtype=dtype, device=hidden.device)
            if not len(hidden):
                weight_gradient.zero_()
        loss = torch.zeros((), device=hidden.device)
        for begin in range(0, len(hidden), size):
            part, part_labels = hidden[begin : begin + size], labels[begin : begin + size, None]
            logits = torch.mm(part, entries.T, out=buffer[: len(part)])
            of_label = logits.gather(1, part_labels).float()
            largest, total = kernels.softmax_(logits)
            normaliser = largest + total.log()
            losses = normaliser - (1.0 - smoothing) * of_label
            if mean_entry is not None:
                losses -= smoothing * (part.float() @ mean_entry)[:, None]
            loss += losses.sum()
            if hidden_gradient is None:
                continue
            # The gradient, and in fp32 the total times it: it is cheaper to divide the products.
            factor = total if logits.dtype == torch.float32 else torch.ones_like(total)
            at_label = factor * ((of_label - normaliser).exp() - (1.0 - smoothing))
            logits.scatter_(1, part_labels, at_label.to(logits.dtype))
            part_gradient = torch.mm(logits, entries, out=hidden_gradient[begin : begin + size])
            part_gradient /= factor
            if weight_gradient is not None:
                _add_product(weight_gradient, logits, (part / factor).to(part.dtype), is_first=begin == 0)
        if mean_entry is not None and hidden_gradient is not None:
            hidden_gradient -= smoothing * mean_entry
            if weight_gradient is not None:
                weight_gradient -= smoothing / len(weight) * hidden.sum(dim=0, dtype=torch.float32)
        context.hidden_gradient = hidden_gradient
        context.weight_gradient = weight_gradient
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


def _add_product(total: torch.Tensor, gradient: torch.Tensor, part: torch.Tensor, *, is_first: bool) -> None:
    """Adds to a total, of which the first product is written over whatever was there."""
    if total.dtype == gradient.dtype:
        torch.addmm(total, gradient.T, part, beta=0 if is_first else 1, out=total)
    elif is_first:
        total.copy_(gradient.T @ part)
    else:
        total += gradient.T @ part
