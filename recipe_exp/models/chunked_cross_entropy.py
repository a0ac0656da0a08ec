"""Cross-entropy over a large vocabulary without a matrix of logits for all tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from recipe_exp import kept_memory
from recipe_exp.models.unpadded.compiling import UNCOMPILED, Kernels

MAX_LOGITS_BYTES = 64 * 2**20
"""Bytes of fp32 logits that are there at the same time, several times over where nothing is compiled."""
MAX_TOKENS = 512
"""Tokens whose logits are there at the same time. More make no product faster, and theirs stay in a CPU's cache."""
_BLOCK_ENTRIES = range(512, 4097)
"""Entries of the vocabulary that a CPU multiplies at once: its libraries are slow at products with wide results."""


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


def num_blocks(vocab_size: int, device: torch.device) -> int:
    """Returns into how many parts of equal size a vocabulary is cut; 1 if there is no such cut or no use for it."""
    if device.type != "cpu":
        return 1
    return next((vocab_size // width for width in reversed(_BLOCK_ENTRIES) if vocab_size % width == 0), 1)


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
        size = tokens_at_once(len(weight))
        blocks = weight.to(hidden.dtype).view(num_blocks(len(weight), hidden.device), -1, weight.shape[1])
        buffer = kept_memory.empty([min(size, len(hidden)) * len(weight)], dtype=hidden.dtype, device=hidden.device)
        hidden_gradient = torch.zeros_like(hidden) if needs_hidden else None
        weight_gradient = None
        if needs_weight:
            dtype = _sum_dtype(hidden, size)
            weight_gradient = kept_memory.empty(blocks.shape, dtype=dtype, device=hidden.device).zero_()
        loss = torch.zeros((), device=hidden.device)
        for begin in range(0, len(hidden), size):
            part, part_labels = hidden[begin : begin + size], labels[begin : begin + size]
            logits = buffer[: len(part) * len(weight)].view(len(blocks), len(part), -1)
            for block, entries in zip(logits, blocks, strict=True):
                torch.mm(part, entries.T, out=block)
            if hidden_gradient is None:
                loss += kernels.summed_loss(logits, part_labels, smoothing)
                continue
            loss += kernels.loss_and_gradient_(logits, part_labels, smoothing)
            part_gradient = hidden_gradient[begin : begin + size]
            for block, entries in zip(logits, blocks, strict=True):
                torch.addmm(part_gradient, block, entries, out=part_gradient)
            if weight_gradient is not None:
                for total, block in zip(weight_gradient, logits, strict=True):
                    _add_product(total, block, part)
        context.hidden_gradient = hidden_gradient
        context.weight_gradient = None if weight_gradient is None else weight_gradient.flatten(0, 1)
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


def _sum_dtype(hidden: torch.Tensor, size: int) -> torch.dtype:
    """Returns the type of the projection's gradient: that of the product if it is one, fp32 for a sum of several."""
    return hidden.dtype if len(hidden) <= size else torch.float32


def _add_product(total: torch.Tensor, gradient: torch.Tensor, part: torch.Tensor) -> None:
    if total.dtype == gradient.dtype:
        torch.addmm(total, gradient.T, part, out=total)
    else:
        total += gradient.T @ part
