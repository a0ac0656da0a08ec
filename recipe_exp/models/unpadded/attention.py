"""Exact attention between the tokens of concatenated texts, bucket by bucket."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from recipe_exp.data.loader import moved
from recipe_exp.models.unpadded.compiling import Kernels
from recipe_exp.models.unpadded.counter_dropout import Drop, Site, column_keys
from recipe_exp.models.unpadded.segments import Bucket, Segments, Side


def attend(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    bias: torch.Tensor | None,
    segments: Segments,
    site: Site | None,
    kernels: Kernels,
) -> torch.Tensor:
    """Returns the attention's output of every token that asks, (tokens, heads * d_kv).

    softmax(q k + bias) v as in T5, which does not divide by the square root of the width. Kept for the backward pass
    are padded queries, keys and values, the weights before dropout, and the output.

    Args:
        queries: (tokens, heads * d_kv).
        keys: (tokens attended to, heads * d_kv).
        values: of the same shape.
        bias: (heads, places, places) for each pair of them, -inf where a causal attention does not look, or None.
        segments: which tokens attend to which.
        site: dropout of the weights, keyed by the token that asks; None without it.
        kernels: that compute it.

    Raises:
        ValueError: nothing says what a causal attention does not look at.
    """
    segments.check_bias(bias)
    rows = _padded_rows(queries, keys, values, segments)
    found: torch.Tensor = _Attention.apply(*rows, bias, segments, site, kernels)  # type: ignore[no-untyped-call]
    return found


def attend_with_sdpa(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    bias: torch.Tensor | None,
    segments: Segments,
    site: Site | None,
    kernels: Kernels,
) -> torch.Tensor:
    """Returns what `attend` does through PyTorch's scaled_dot_product_attention, which keeps no weights on a GPU.

    Its dropout is drawn from the device's generator, so it depends on how the window was cut. Arguments are those of
    `attend`.
    """
    segments.check_bias(bias)
    num_heads, probability = segments.num_heads, 0.0 if site is None else site.probability
    rows = _padded_rows(queries, keys, values, segments)
    found = []
    for bucket in segments.buckets:
        masks = [] if bucket.key_mask is None else [bucket.key_mask[:, None, None]]
        masks += [] if bias is None else [_of_bucket(bias, bucket)[None]]
        output = functional.scaled_dot_product_attention(
            _by_text(bucket.queries_of(rows[0], num_heads), num_heads),
            _by_text(bucket.keys_of(rows[1], num_heads), num_heads),
            _by_text(bucket.keys_of(rows[2], num_heads), num_heads),
            attn_mask=sum(masks[1:], masks[0]).to(queries.dtype),
            dropout_p=probability,
            scale=1.0,
        )
        found.append(output.transpose(0, 1).reshape(-1, output.shape[3]))
    flat: torch.Tensor = _Joined.apply(  # type: ignore[no-untyped-call]
        torch.cat(found), segments.queries, num_heads, kernels
    )
    return flat


def attend_with_flash(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    bias: torch.Tensor | None,
    segments: Segments,
    site: Site | None,
    _: Kernels,
) -> torch.Tensor:
    """Returns what `attend` does without a bias, through flash-attn's kernel for concatenated texts.

    It computes in bf16 and on a GPU only, keeps no weights and pads nothing. Its dropout is drawn from the device's
    generator. Arguments are those of `attend`.

    Raises:
        ValueError: there is a bias.
    """
    from flash_attn import flash_attn_varlen_func

    if bias is not None:
        raise ValueError("flash attention's kernel takes no bias")
    num_heads = segments.num_heads
    boundaries, key_boundaries = segments.once(_boundaries)
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


def _boundaries(segments: Segments) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns where each text begins and the last one ends, int32, (texts + 1,), and the same of the keys' texts."""
    device = segments.queries.rows.device
    sides = [np.concatenate([[0], np.cumsum(lengths)]) for lengths in (segments.lengths, segments.key_lengths)]
    of_queries, of_keys = (moved(torch.from_numpy(ends.astype(np.int32)), device) for ends in sides)
    return of_queries, of_keys


class _Attention(torch.autograd.Function):
    """Attention between padded rows, (places * heads, d_kv), of queries, keys and values; its output is not padded."""

    @staticmethod
    def forward(
        context: Any,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        bias: torch.Tensor | None,
        segments: Segments,
        site: Site | None,
        kernels: Kernels,
    ) -> torch.Tensor:
        num_heads = segments.num_heads
        products, all_weights, all_totals = torch.empty_like(queries), [], []
        row_keys = _row_keys(site, segments, kernels)
        drops = _drops(site, row_keys, segments)
        with torch.autocast(queries.device.type, enabled=False):
            for bucket, drop in zip(segments.buckets, drops, strict=True):
                scores = torch.bmm(
                    bucket.queries_of(queries, num_heads), bucket.keys_of(keys, num_heads).transpose(1, 2)
                )
                weights, kept, totals = kernels.attention_weights(
                    _by_head(scores, num_heads),
                    None if bias is None else _of_bucket(bias, bucket),
                    bucket.key_mask,
                    drop,
                )
                found = bucket.queries_of(products, num_heads)
                torch.bmm(kept.flatten(0, 1), bucket.keys_of(values, num_heads), out=found)
                all_weights.append(weights)
                all_totals.append(totals.flatten())
            totals = torch.cat(all_totals)
            output = kernels.joined(products, totals, segments.queries.places, _scale(site))
        flat: torch.Tensor = output.view(-1, num_heads * output.shape[1])
        context.save_for_backward(queries, keys, values, flat, totals, *row_keys, *all_weights)
        context.bias_shape = None if bias is None else (bias.shape, bias.dtype)
        context.segments, context.site, context.kernels = segments, site, kernels
        return flat

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        queries, keys, values, output, totals, *by_bucket = context.saved_tensors
        segments, num_heads = context.segments, context.segments.num_heads
        row_keys, all_weights = by_bucket[: len(segments.buckets)], by_bucket[len(segments.buckets) :]
        drops = _drops(context.site, row_keys, segments)
        of_queries, of_keys, of_values = torch.empty_like(queries), torch.empty_like(keys), torch.empty_like(values)
        of_bias = None
        if context.bias_shape is not None and context.needs_input_grad[3]:
            of_bias = torch.zeros(context.bias_shape[0], dtype=torch.float32, device=gradient.device)
        with torch.autocast(gradient.device.type, enabled=False):
            of_products, along = context.kernels.spread(
                gradient.reshape(-1, queries.shape[1]),
                output.view(-1, queries.shape[1]),
                totals,
                segments.queries.rows,
                _scale(context.site),
            )
            for bucket, drop, weights in zip(segments.buckets, drops, all_weights, strict=True):
                back = bucket.queries_of(of_products, num_heads)
                of_scores, kept = context.kernels.attention_backward(
                    _by_head(torch.bmm(back, bucket.keys_of(values, num_heads).transpose(1, 2)), num_heads),
                    weights,
                    _of_rows(along, bucket, num_heads),
                    drop,
                )
                if of_bias is not None:
                    _of_bucket(of_bias, bucket).add_(of_scores.sum(dim=1, dtype=torch.float32))
                of_scores, kept = of_scores.flatten(0, 1), kept.flatten(0, 1)
                asked, attended = bucket.queries_of(queries, num_heads), bucket.keys_of(keys, num_heads)
                torch.bmm(of_scores, attended, out=bucket.queries_of(of_queries, num_heads))
                _add_product(bucket, bucket.keys_of(of_keys, num_heads), of_scores, asked)
                _add_product(bucket, bucket.keys_of(of_values, num_heads), kept, back)
        if of_bias is not None:
            of_bias = of_bias.to(context.bias_shape[1])
        return of_queries, of_keys, of_values, of_bias, None, None, None


class _Padded(torch.autograd.Function):
    """The rows of padded buckets, (places * heads, d_kv), of tokens, (tokens, heads * d_kv).

    Rows that hold nothing are those of any token: no query looks at such keys, and nothing reads what such queries
    find.
    """

    @staticmethod
    def forward(context: Any, flat: torch.Tensor, side: Side, num_heads: int) -> torch.Tensor:
        context.shape, context.side = flat.shape, side
        return flat.reshape(len(flat) * num_heads, -1).index_select(0, side.taken)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return gradients[0].index_select(0, context.side.places).view(context.shape), None, None


class _Joined(torch.autograd.Function):
    """The way back, without what is padded."""

    @staticmethod
    def forward(context: Any, rows: torch.Tensor, side: Side, num_heads: int, kernels: Kernels) -> torch.Tensor:
        context.side, context.num_heads, context.kernels = side, num_heads, kernels
        return rows.index_select(0, side.places).view(len(side.places) // num_heads, -1)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        flat = gradient.reshape(len(gradient) * context.num_heads, -1)
        return context.kernels.gathered(flat, context.side.rows), None, None, None


def _padded_rows(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, segments: Segments
) -> list[torch.Tensor]:
    sides = ((queries, segments.queries), (keys, segments.keys), (values, segments.keys))
    return [_Padded.apply(flat, side, segments.num_heads) for flat, side in sides]  # type: ignore[no-untyped-call]


def _row_keys(site: Site | None, segments: Segments, kernels: Kernels) -> Sequence[torch.Tensor | None]:
    """Returns the dropout keys of each bucket's rows, (heads, texts, queries); None without dropout."""
    if site is None:
        return [None] * len(segments.buckets)
    keys = kernels.attention_row_keys(site.row_keys, segments.queries.taken, segments.num_heads)
    return [_of_rows(keys, bucket, segments.num_heads) for bucket in segments.buckets]


def _drops(site: Site | None, row_keys: Sequence[torch.Tensor | None], segments: Segments) -> list[Drop | None]:
    """Returns what is dropped of the weights of each bucket."""
    return [
        None if site is None or keys is None else site.drop(keys, column_keys(bucket.num_keys, keys.device))
        for keys, bucket in zip(row_keys, segments.buckets, strict=True)
    ]


def _scale(site: Site | None) -> float:
    return 1.0 if site is None else site.scale


def _of_rows(values: torch.Tensor, bucket: Bucket, num_heads: int) -> torch.Tensor:
    """Returns a bucket's part of a number for each row of queries, (heads, texts, queries)."""
    # A tensor of its own: a compiled kernel would be compiled once more for one that starts at the second row.
    return _by_head(bucket.queries_of(values, num_heads).clone(), num_heads)


def _add_product(bucket: Bucket, total: torch.Tensor, of_pairs: torch.Tensor, of_queries: torch.Tensor) -> None:
    """Adds what queries tell their keys to a total; the first bucket's is written over whatever was there."""
    if bucket.attends_to_all:
        torch.bmm(of_pairs.transpose(1, 2), of_queries, out=total)
    else:
        total += torch.bmm(of_pairs.transpose(1, 2), of_queries)


def _by_text(flat: torch.Tensor, num_heads: int) -> torch.Tensor:
    return _by_head(flat, num_heads).transpose(0, 1)


def _by_head(flat: torch.Tensor, num_heads: int) -> torch.Tensor:
    return flat.view(num_heads, -1, *flat.shape[1:])


def _of_bucket(bias: torch.Tensor, bucket: Bucket) -> torch.Tensor:
    return bias[:, bucket.first_place : bucket.first_place + bucket.num_queries, : bucket.num_keys]
