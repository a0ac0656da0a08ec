"""Exact attention between the tokens of concatenated texts, bucket by bucket."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn import functional

from recipe_exp.models.unpadded.compiling import Kernels
from recipe_exp.models.unpadded.counter_dropout import Site
from recipe_exp.models.unpadded.kernels import by_head, visible_pairs
from recipe_exp.models.unpadded.segments import Bucket, Segments


def attend(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    bias: torch.Tensor | None,
    segments: Segments,
    site: Site | None,
    num_heads: int,
    kernels: Kernels,
) -> torch.Tensor:
    """Returns the attention's output of every token that asks, (tokens, heads * d_kv).

    softmax(q k + bias) v as in T5, which does not divide by the square root of the width. Kept for the backward pass
    are queries, keys and values by bucket, and the weights before dropout.

    Args:
        queries: (tokens, heads * d_kv).
        keys: (tokens attended to, heads * d_kv).
        values: of the same shape.
        bias: (heads, longest, longest) for each pair of places, or None.
        segments: which tokens attend to which.
        site: dropout of the weights, keyed by the token that asks; None without it.
        num_heads: how many.
        kernels: that compute it.
    """
    result: torch.Tensor = _Attention.apply(queries, keys, values, bias, segments, site, num_heads, kernels)  # type: ignore[no-untyped-call]
    return result


def attend_with_sdpa(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    bias: torch.Tensor | None,
    segments: Segments,
    site: Site | None,
    num_heads: int,
) -> torch.Tensor:
    """Returns what `attend` does through PyTorch's scaled_dot_product_attention, which keeps no weights on a GPU.

    Its dropout is drawn from the device's generator, so it depends on how the window was cut. Arguments are those of
    `attend`.
    """
    probability = 0.0 if site is None else site.probability
    parts = []
    for bucket in segments.buckets:
        mask = visible_pairs(
            bucket.query_slots.shape[1], bucket.key_slots.shape[1], bucket.key_lengths, segments.is_causal
        )
        if bias is not None:
            mask = _part(bias, bucket).to(queries.dtype).masked_fill(~mask, -math.inf)
        output = functional.scaled_dot_product_attention(
            _by_text(by_head(queries, bucket.query_slots, num_heads), num_heads),
            _by_text(by_head(keys, bucket.key_slots, num_heads), num_heads),
            _by_text(by_head(values, bucket.key_slots, num_heads), num_heads),
            attn_mask=mask,
            dropout_p=probability,
            scale=1.0,
        )
        parts.append(output.transpose(1, 2).flatten(0, 1).flatten(1).index_select(0, bucket.places))
    order = torch.cat([bucket.tokens for bucket in segments.buckets]).argsort()
    return torch.cat(parts).index_select(0, order)


def attend_with_flash(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    segments: Segments,
    site: Site | None,
    num_heads: int,
) -> torch.Tensor:
    """Returns what `attend` does without a bias, through flash-attn's kernel for concatenated texts.

    It computes in bf16 and on a GPU only, keeps no weights and pads nothing. Its dropout is drawn from the device's
    generator. Arguments are those of `attend`.
    """
    from flash_attn import flash_attn_varlen_func

    boundaries, key_boundaries = segments.boundaries
    output: torch.Tensor = flash_attn_varlen_func(
        queries.view(len(queries), num_heads, -1),
        keys.view(len(keys), num_heads, -1),
        values.view(len(values), num_heads, -1),
        cu_seqlens_q=boundaries,
        cu_seqlens_k=key_boundaries,
        max_seqlen_q=int(segments.lengths.max()),
        max_seqlen_k=int(segments.key_lengths.max()),
        dropout_p=0.0 if site is None else site.probability,
        softmax_scale=1.0,
        causal=segments.is_causal,
        # The backward pass would otherwise add in another order each time.
        deterministic=True,
    )
    return output.flatten(1)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        bias: torch.Tensor | None,
        segments: Segments,
        site: Site | None,
        num_heads: int,
        kernels: Kernels,
    ) -> torch.Tensor:
        output = torch.empty_like(queries)
        saved = []
        with torch.autocast(queries.device.type, enabled=False):
            for bucket in segments.buckets:
                parts = (
                    kernels.by_head(queries, bucket.query_slots, num_heads),
                    kernels.by_head(keys, bucket.key_slots, num_heads),
                    kernels.by_head(values, bucket.key_slots, num_heads),
                )
                scores = _by_text(torch.bmm(parts[0], parts[1].transpose(1, 2)), num_heads)
                weights, kept = kernels.attention_weights(
                    scores,
                    _part(bias, bucket),
                    bucket.key_lengths,
                    *_dropout(site, bucket, is_causal=segments.is_causal),
                )
                _put(output, torch.bmm(kept.flatten(0, 1), parts[2]), bucket.tokens, bucket.places, num_heads)
                saved += [*parts, weights]
        context.save_for_backward(*saved)
        context.bias_shape = None if bias is None else (bias.shape, bias.dtype)
        context.key_shape = keys.shape
        context.segments, context.site, context.num_heads, context.kernels = segments, site, num_heads, kernels
        return output

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        num_heads, kernels, site = context.num_heads, context.kernels, context.site
        of_queries = torch.empty_like(gradient)
        of_keys, of_values = gradient.new_empty(context.key_shape), gradient.new_empty(context.key_shape)
        of_bias = None
        if context.bias_shape is not None and context.needs_input_grad[3]:
            of_bias = torch.zeros(context.bias_shape[0], dtype=torch.float32, device=gradient.device)
        saved = iter(context.saved_tensors)
        with torch.autocast(gradient.device.type, enabled=False):
            for bucket in context.segments.buckets:
                queries, keys, values, weights = (next(saved) for _ in range(4))
                back = kernels.by_head(gradient, bucket.query_slots, num_heads)
                query_keys, _, threshold, scale = _dropout(site, bucket, is_causal=False)
                of_scores, kept = kernels.attention_backward(
                    _by_text(torch.bmm(back, values.transpose(1, 2)), num_heads), weights, query_keys, threshold, scale
                )
                if of_bias is not None:
                    _part(of_bias, bucket).add_(of_scores.sum(dim=0, dtype=torch.float32))
                of_scores, kept = of_scores.flatten(0, 1), kept.flatten(0, 1)
                asked = (bucket.tokens, bucket.places, num_heads)
                attended = (bucket.key_tokens, bucket.key_places, num_heads)
                _put(of_queries, torch.bmm(of_scores, keys), *asked)
                _put(of_keys, torch.bmm(of_scores.transpose(1, 2), queries), *attended)
                _put(of_values, torch.bmm(kept.transpose(1, 2), back), *attended)
        if of_bias is not None:
            of_bias = of_bias.to(context.bias_shape[1])
        return of_queries, of_keys, of_values, of_bias, None, None, None, None


def _by_text(flat: torch.Tensor, num_heads: int) -> torch.Tensor:
    return flat.view(-1, num_heads, *flat.shape[1:])


def _part(bias: Any, bucket: Bucket) -> Any:
    if bias is None:
        return None
    return bias[:, : bucket.query_slots.shape[1], : bucket.key_slots.shape[1]]


def _dropout(site: Site | None, bucket: Bucket, *, is_causal: bool) -> tuple[torch.Tensor | None, bool, int, float]:
    if site is None:
        return None, is_causal, 0, 1.0
    return site.row_keys[bucket.query_slots.clamp(min=0)], is_causal, site.threshold, site.scale


def _put(flat: torch.Tensor, heads: torch.Tensor, tokens: torch.Tensor, places: torch.Tensor, num_heads: int) -> None:
    """Writes (texts * heads, length, d_kv) to where its tokens lie among the concatenated ones."""
    length, width = heads.shape[1:]
    rows = heads.view(-1, num_heads, length, width).transpose(1, 2).reshape(-1, num_heads * width)
    flat.index_copy_(0, tokens, rows.index_select(0, places))
