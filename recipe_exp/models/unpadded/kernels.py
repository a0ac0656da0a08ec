"""The elementwise arithmetic of a T5 block, forward and backward: pure functions that `torch.compile` may fuse.

Each is one pass over memory once compiled. Run as they stand they give the same numbers up to rounding.
Reductions and functions of real numbers are computed in fp32 whatever the type of the tensors.
"""

from __future__ import annotations

import math

import torch

from recipe_exp.models.unpadded.counter_dropout import keep, scrambled

_TWICE_SQRT_2_OVER_PI = 2.0 * math.sqrt(2.0 / math.pi)
_CUBIC = 0.044715


def dropped(values: torch.Tensor, row_keys: torch.Tensor, threshold: int, scale: float) -> torch.Tensor:
    """Returns values with dropout; the same call on a gradient is its backward pass.

    Args:
        values: (tokens, width).
        row_keys: int32, (tokens,).
        threshold: a hash below it drops.
        scale: of what is kept.
    """
    return torch.where(_kept(values, row_keys, threshold), values * scale, 0.0)


def _kept(values: torch.Tensor, row_keys: torch.Tensor, threshold: int) -> torch.Tensor:
    columns = torch.arange(values.shape[1], dtype=torch.int32, device=values.device)
    return keep(row_keys[:, None], columns, threshold)


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
    row_keys: torch.Tensor | None,
    threshold: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the stream with an update under dropout added to it, its norm, and the norm's factor."""
    change = update if row_keys is None else dropped(update, row_keys, threshold, scale)
    stream = stream + change.to(stream.dtype)
    return stream, *normed(stream, weight, epsilon, dtype)


def normed_backward(
    gradient: torch.Tensor,
    stream_gradient: torch.Tensor,
    stream: torch.Tensor,
    weight: torch.Tensor,
    factor: torch.Tensor,
    row_keys: torch.Tensor | None,
    threshold: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the gradients of the stream, that which passes by the norm included, of the update, and of the weight."""
    wide, scaled = stream.float(), gradient.float()
    direction = wide * factor[:, None]
    inner = scaled * weight.float()
    along = (inner * direction).mean(dim=1, keepdim=True)
    back = (factor[:, None] * (inner - direction * along) + stream_gradient.float()).to(stream.dtype)
    of_update = back if row_keys is None else dropped(back, row_keys, threshold, scale)
    return back, of_update, (scaled * direction).sum(dim=0)


def gated_gelu(gate: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Returns `gelu(gate) * value` with the tanh form of GELU (https://arxiv.org/abs/1606.08415).

    (1 + tanh(z)) / 2 is the sigmoid of 2 z, which is a single exponential.
    """
    wide = gate.float()
    return (wide * torch.sigmoid(_sigmoid_argument(wide)) * value.float()).to(value.dtype)


def dropped_gated_gelu(
    gate: torch.Tensor, value: torch.Tensor, row_keys: torch.Tensor, threshold: int, scale: float
) -> torch.Tensor:
    """Returns `gated_gelu` with dropout."""
    return dropped(gated_gelu(gate, value), row_keys, threshold, scale)


def gated_gelu_backward(
    gradient: torch.Tensor,
    gate: torch.Tensor,
    value: torch.Tensor,
    row_keys: torch.Tensor | None,
    threshold: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the gradients of gate and value."""
    if row_keys is not None:
        gradient = dropped(gradient, row_keys, threshold, scale)
    wide, back = gate.float(), gradient.float()
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
        rows: int64, (rows,), which of (tokens * heads) each is, -1 for none.
        num_heads: of the attention.
    """
    rows = rows.clamp(min=0)
    return scrambled(row_keys[rows // num_heads] ^ (rows % num_heads + 1).to(torch.int32))


def attention_weights(
    scores: torch.Tensor,
    bias: torch.Tensor | None,
    key_lengths: torch.Tensor,
    row_keys: torch.Tensor | None,
    is_causal: bool,
    threshold: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the softmax of scores and position bias over the keys that a query may see, and it with dropout.

    Heads come first, because compiled kernels share out the first dimension among a CPU's threads, and a bucket often
    holds a single text.

    Args:
        scores: (heads, texts, queries, keys).
        bias: (heads, queries, keys) or None.
        key_lengths: int32, (texts,), keys of each text.
        row_keys: int32, (heads, texts, queries), hashes for dropout; None without it, and the second result is the
            first.
        is_causal: whether a query sees no key after its own place.
        threshold: a hash below it drops.
        scale: of what is kept.
    """
    wide = scores.float()
    if bias is not None:
        wide = wide + bias.float()[:, None].expand_as(scores)
    visible = visible_pairs(scores.shape[2], scores.shape[3], key_lengths, is_causal)
    weights = torch.softmax(torch.where(visible, wide, -math.inf), dim=3)
    if row_keys is None:
        result = weights.to(scores.dtype)
        return result, result
    kept = torch.where(_kept_pairs(scores, row_keys, threshold), weights * scale, 0.0)
    return weights.to(scores.dtype), kept.to(scores.dtype)


def attention_backward(
    gradient: torch.Tensor, weights: torch.Tensor, row_keys: torch.Tensor | None, threshold: int, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the gradient of the scores, and the weights with dropout once more.

    Args:
        gradient: (heads, texts, queries, keys), of the weights with dropout.
        weights: the same shape, without dropout.
        row_keys: as in `attention_weights`.
        threshold: a hash below it drops.
        scale: of what is kept.
    """
    wide, back = weights.float(), gradient.float()
    kept = wide
    if row_keys is not None:
        is_kept = _kept_pairs(weights, row_keys, threshold)
        back = torch.where(is_kept, back * scale, 0.0)
        kept = torch.where(is_kept, wide * scale, 0.0)
    along = (back * wide).sum(dim=3, keepdim=True)
    return (wide * (back - along)).to(weights.dtype), kept.to(weights.dtype)


def visible_pairs(num_queries: int, num_keys: int, key_lengths: torch.Tensor, is_causal: bool) -> torch.Tensor:
    """Returns which keys a query may see, a boolean (texts, queries or 1, keys).

    Args:
        num_queries: places of queries.
        num_keys: places of keys.
        key_lengths: int32, (texts,), keys of each text.
        is_causal: whether a query sees no key after its own place.
    """
    # As wide as the numbers that they decide on, so that a CPU compares as many at once.
    keys = torch.arange(num_keys, dtype=torch.int32, device=key_lengths.device)
    visible = keys < key_lengths[:, None, None]
    if is_causal:
        queries = torch.arange(num_queries, dtype=torch.int32, device=key_lengths.device)
        visible = visible & (keys <= queries[:, None])
    return visible


def _kept_pairs(scores: torch.Tensor, row_keys: torch.Tensor, threshold: int) -> torch.Tensor:
    keys = torch.arange(scores.shape[3], dtype=torch.int32, device=scores.device)
    return keep(row_keys[..., None], keys, threshold)


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
