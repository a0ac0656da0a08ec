"""The elementwise arithmetic of a T5 block, forward and backward: pure functions that `torch.compile` may fuse.

Each is one pass over memory once compiled. Run as they stand they give the same numbers up to rounding.
Reductions and functions of real numbers are computed in fp32 whatever the type of the tensors.
"""

from __future__ import annotations

import math

import torch

from recipe_exp.models.unpadded.counter_dropout import Drop, keep, scrambled

_TWICE_SQRT_2_OVER_PI = 2.0 * math.sqrt(2.0 / math.pi)
_CUBIC = 0.044715


def dropped(values: torch.Tensor, drop: Drop | None) -> torch.Tensor:
    """Returns values with dropout; the same call on a gradient is its backward pass.

    Args:
        values: (tokens, width).
        drop: what is dropped; None for nothing.
    """
    if drop is None:
        return values
    return torch.where(keep(drop.row_keys[:, None], drop.columns, drop.threshold), values * drop.scale, 0.0)


def normed(
    stream: torch.Tensor, weight: torch.Tensor, epsilon: float, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns T5's layer norm, `weight * x / sqrt(mean(x^2) + epsilon)`, and its factor of each token.

    Args:
        stream: (tokens, width).
        weight: (width,).
        epsilon: added to the mean square.
        dtype: of the result.

    Returns:
        (tokens, width) and, in fp32, (tokens,).
    """
    wide = stream.float()
    factor = torch.rsqrt((wide * wide).mean(dim=1, keepdim=True) + epsilon)
    return (wide * factor * weight.float()).to(dtype), factor.squeeze(1)


def added_and_normed(
    stream: torch.Tensor,
    update: torch.Tensor,
    weight: torch.Tensor,
    epsilon: float,
    dtype: torch.dtype,
    drop: Drop | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the stream with an update under dropout added to it, its norm, and the norm's factor."""
    stream = stream + dropped(update, drop).to(stream.dtype)
    return stream, *normed(stream, weight, epsilon, dtype)


def normed_backward(
    gradient: torch.Tensor,
    stream_gradient: torch.Tensor,
    stream: torch.Tensor,
    weight: torch.Tensor,
    factor: torch.Tensor,
    drop: Drop | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the gradients of the stream, that which passes by the norm included, of the update, and of the weight."""
    wide, scaled = stream.float(), gradient.float()
    direction = wide * factor[:, None]
    inner = scaled * weight.float()
    along = (inner * direction).mean(dim=1, keepdim=True)
    back = (factor[:, None] * (inner - direction * along) + stream_gradient.float()).to(stream.dtype)
    return back, dropped(back, drop), (scaled * direction).sum(dim=0)


def gated_gelu(gate: torch.Tensor, value: torch.Tensor, drop: Drop | None) -> torch.Tensor:
    """Returns `gelu(gate) * value` under dropout, with the tanh form of GELU (https://arxiv.org/abs/1606.08415).

    (1 + tanh(z)) / 2 is the sigmoid of 2 z, which is a single exponential.
    """
    wide = gate.float()
    return dropped((wide * torch.sigmoid(_sigmoid_argument(wide)) * value.float()).to(value.dtype), drop)


def gated_gelu_backward(
    gradient: torch.Tensor, gate: torch.Tensor, value: torch.Tensor, drop: Drop | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the gradients of gate and value."""
    wide, back = gate.float(), dropped(gradient, drop).float()
    sigmoid = torch.sigmoid(_sigmoid_argument(wide))
    slope = _TWICE_SQRT_2_OVER_PI * (1.0 + 3.0 * _CUBIC * wide * wide)
    derivative = sigmoid + wide * sigmoid * (1.0 - sigmoid) * slope
    return (back * value.float() * derivative).to(gate.dtype), (back * wide * sigmoid).to(value.dtype)


def _sigmoid_argument(wide: torch.Tensor) -> torch.Tensor:
    return _TWICE_SQRT_2_OVER_PI * (wide + _CUBIC * wide * wide * wide)


def gathered(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Returns rows of values, and zero where there is none.

    Args:
        values: (rows of values, width).
        rows: int64, (rows,), which to take, -1 for none.
    """
    return torch.where((rows >= 0)[:, None], values.index_select(0, rows.clamp(min=0)), 0.0)


def attention_row_keys(row_keys: torch.Tensor, rows: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Returns a hash for the attention dropout of each row, int32, (rows,).

    Args:
        row_keys: int32, (tokens,).
        rows: int64, (rows,), which of (tokens * heads) each is.
        num_heads: of the attention.
    """
    return scrambled(row_keys[rows // num_heads] ^ (rows % num_heads + 1).to(torch.int32))


def attention_weights(
    scores: torch.Tensor,
    bias: torch.Tensor | None,
    key_mask: torch.Tensor | None,
    drop: Drop | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns attention weights before their division by their total, the same with dropout, and the totals.

    The division is left to the product with the values, which is smaller, and so is the scale of dropout. Heads come
    first, because compiled kernels share out the first dimension among a CPU's threads, and a bucket often holds a
    single text.

    Args:
        scores: (heads, texts, queries, keys).
        bias: (heads, queries, keys) or None.
        key_mask: fp32, (texts, keys), 0 or -inf, or None.
        drop: with row keys (heads, texts, queries); its scale is left out. None without dropout.

    Returns:
        Twice (heads, texts, queries, keys), with a largest of 1, and, in fp32, (heads, texts, queries).
    """
    wide = scores.float()
    if bias is not None:
        wide = wide + bias.float()[:, None].expand_as(scores)
    if key_mask is not None:
        wide = wide + key_mask[:, None].expand_as(scores)
    weights = (wide - wide.amax(dim=3, keepdim=True)).exp()
    kept = weights
    if drop is not None:
        kept = torch.where(keep(drop.row_keys[..., None], drop.columns, drop.threshold), weights, 0.0)
    return weights.to(scores.dtype), kept.to(scores.dtype), weights.sum(dim=3)


def attention_backward(
    gradient: torch.Tensor, weights: torch.Tensor, along: torch.Tensor, drop: Drop | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the gradient of the scores, and the weights with dropout once more.

    Args:
        gradient: (heads, texts, queries, keys), of the weights with dropout, as `spread` scales it.
        weights: the same shape, of `attention_weights`.
        along: fp32, (heads, texts, queries), of `spread`.
        drop: as in `attention_weights`.
    """
    wide, back = weights.float(), gradient.float()
    kept = wide
    if drop is not None:
        is_kept = keep(drop.row_keys[..., None], drop.columns, drop.threshold)
        back = torch.where(is_kept, back, 0.0)
        kept = torch.where(is_kept, wide, 0.0)
    return (wide * (back - along[..., None])).to(weights.dtype), kept.to(weights.dtype)


def joined(rows: torch.Tensor, totals: torch.Tensor, places: torch.Tensor, scale: float) -> torch.Tensor:
    """Returns the attention's output of each token and head, (tokens * heads, d_kv), of products with values.

    Args:
        rows: (rows, d_kv), products of `attention_weights` with dropout and values.
        totals: fp32, (rows,), of `attention_weights`.
        places: int64, (tokens * heads,), the row of each.
        scale: of dropout.
    """
    factors = scale / totals.index_select(0, places)
    return (rows.index_select(0, places).float() * factors[:, None]).to(rows.dtype)


def spread(
    gradient: torch.Tensor, output: torch.Tensor, totals: torch.Tensor, rows: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the gradient of products with values for each row, and what softmax takes from that of its scores.

    The latter is the weighted sum of the gradient of a row's weights. It is known from the output alone, which spares
    a pass over pairs of tokens, as in https://arxiv.org/abs/2205.14135.

    Args:
        gradient: (tokens * heads, d_kv), of what `joined` returned.
        output: what it returned.
        totals: fp32, (rows,), of `attention_weights`.
        rows: int64, (rows,), which of (tokens * heads) each is, -1 for none.
        scale: of dropout.

    Returns:
        (rows, d_kv) and, in fp32, (rows,); zero where there is none.
    """
    taken, is_token = rows.clamp(min=0), rows >= 0
    back = gradient.index_select(0, taken).float()
    along = (back * output.index_select(0, taken).float()).sum(dim=1)
    of_rows = torch.where(is_token[:, None], back * (scale / totals)[:, None], 0.0)
    return of_rows.to(gradient.dtype), torch.where(is_token, along / totals, 0.0)


def softmax_(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Writes the softmax of each token over the logits; in fp32 the total of its exponentials times that.

    Leaving the division out spares a pass over memory. Shorter types would be rounded twice.

    Args:
        logits: (tokens, vocabulary).

    Returns:
        The largest logit of each token and the total of `exp(logit - largest)`, (tokens, 1), both in fp32.
    """
    largest = logits.amax(dim=1, keepdim=True).float()
    if logits.dtype == torch.float32:
        return largest, logits.sub_(largest).exp_().sum(dim=1, keepdim=True)
    wide = logits.float()
    total = (wide - largest).exp_().sum(dim=1, keepdim=True)
    logits.copy_((wide - (largest + total.log())).exp_())
    return largest, total
