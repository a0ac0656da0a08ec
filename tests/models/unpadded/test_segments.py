"""Buckets hold every token once, and attention over them is attention over each text alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe_exp.models.unpadded import segments as segments_module
from recipe_exp.models.unpadded.attention import attend, attend_with_flash, attend_with_sdpa
from recipe_exp.models.unpadded.compiling import UNCOMPILED
from recipe_exp.models.unpadded.counter_dropout import scrambled
from recipe_exp.models.unpadded.flex import attend_with_flex
from recipe_exp.models.unpadded.kernels import attention_row_keys
from recipe_exp.models.unpadded.segments import Segments, cross_segments, self_segments

pytestmark = pytest.mark.usefixtures("flash_attn", "flex_trains_here")
CPU = torch.device("cpu")
LENGTHS = st.lists(st.tuples(st.integers(1, 90), st.integers(1, 60)), min_size=1, max_size=12)


@settings(deadline=None)
@given(LENGTHS)
def test_every_token_asks_and_is_attended_to_once(pairs: list[tuple[int, int]]) -> None:
    queries, keys = np.array(pairs).T
    num_heads = 2
    segments = cross_segments(queries, keys, num_heads=num_heads, device=CPU)
    text_of_query, text_of_key = np.repeat(np.arange(len(pairs)), queries), np.repeat(np.arange(len(pairs)), keys)
    for side, num_tokens in ((segments.queries, queries.sum()), (segments.keys, keys.sum())):
        assert sorted(side.rows[side.rows >= 0].tolist()) == list(range(num_tokens * num_heads))
        assert torch.equal(side.rows[side.places], torch.arange(num_tokens * num_heads))
    row_keys = attention_row_keys(torch.arange(queries.sum(), dtype=torch.int32), segments.queries.taken, num_heads)
    for bucket in segments.buckets:
        shape = (num_heads, bucket.num_texts, -1)
        asking = bucket.queries_of(segments.queries.rows, num_heads).view(shape).numpy()
        attended = bucket.keys_of(segments.keys.rows, num_heads).view(shape).numpy()
        hashes = bucket.queries_of(row_keys, num_heads).view(shape)
        assert bucket.key_mask is not None
        assert ((bucket.key_mask == 0) | (bucket.key_mask == -torch.inf)).all()
        for text, length in enumerate((bucket.key_mask == 0).sum(dim=1).tolist()):
            for head in range(num_heads):
                places = asking[head, text]
                queries_of_text, keys_of_text = places[places >= 0], attended[head, text, :length]
                assert {*(queries_of_text % num_heads), *(keys_of_text % num_heads)} == {head}
                found = {*text_of_query[queries_of_text // num_heads], *text_of_key[keys_of_text // num_heads]}
                assert len(found) == 1, "one text"
                tokens = torch.from_numpy(queries_of_text // num_heads).to(torch.int32)
                assert torch.equal(hashes[head, text, places >= 0], scrambled(tokens ^ (head + 1)))
                assert (attended[head, text, length:] == -1).all(), "keys stand in front of what is padded"
                assert (bucket.key_mask[text, :length] == 0).all()


def test_texts_of_similar_lengths_share_a_bucket() -> None:
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(4.75, 0.5, 64).astype(np.int64), 20, 512)
    segments = self_segments(lengths, num_heads=1, is_causal=True, device=CPU)
    pairs = sum(bucket.num_texts * bucket.num_queries * bucket.num_keys for bucket in segments.buckets)
    assert len(segments.buckets) < len(lengths) / 2
    assert pairs < 1.3 * (lengths**2).sum() < len(lengths) * lengths.max() ** 2 / 2


def text_by_text(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    bias: torch.Tensor | None,
    lengths: tuple[list[int], list[int]],
    *,
    is_causal: bool,
) -> torch.Tensor:
    """The definition, for one text after the other."""
    outputs = []
    parts = (queries.split(lengths[0]), keys.split(lengths[1]), values.split(lengths[1]))
    for query, key, value in zip(*parts, strict=True):
        q, k, v = (part.view(len(part), 2, 4).transpose(0, 1) for part in (query, key, value))
        scores = q @ k.transpose(1, 2)
        if bias is not None:
            scores = scores + bias[:, : len(query), : len(key)]
        if is_causal:
            scores = scores.masked_fill(torch.ones(scores.shape[1:]).triu(1).bool(), -torch.inf)
        outputs.append((scores.softmax(-1) @ v).transpose(0, 1).flatten(1))
    return torch.cat(outputs)


@settings(deadline=None, max_examples=25)
@given(
    LENGTHS,
    st.sampled_from(["across", "causal", "both ways"]),
    st.sampled_from(["eager", "sdpa", "varlen", "flex"]),
    st.sampled_from([10, 1_000, segments_module.BUCKET_COST]),
)
def test_attention_is_that_of_each_text_alone(
    pairs: list[tuple[int, int]], kind: str, backend: str, bucket_cost: int
) -> None:
    queries, keys = np.array(pairs).T
    segments: Segments
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments_module, "BUCKET_COST", bucket_cost)
        if kind == "across":
            segments = cross_segments(queries, keys, num_heads=2, device=CPU)
        else:
            keys = queries
            segments = self_segments(queries, num_heads=2, is_causal=kind == "causal", device=CPU)
    torch.manual_seed(len(pairs))
    tensors = [torch.randn(int(count.sum()), 8, requires_grad=True) for count in (queries, keys, keys)]
    bias = None if kind == "across" else torch.randn(2, *[segments.num_biased_places] * 2, requires_grad=True)
    given = bias
    if bias is not None and kind == "causal":
        given = bias.masked_fill(torch.ones(bias.shape[1:]).triu(1).bool(), -torch.inf)
    wanted = text_by_text(*tensors, bias, (queries.tolist(), keys.tolist()), is_causal=kind == "causal")
    if backend == "sdpa":
        found = attend_with_sdpa(*tensors, given, segments, None, UNCOMPILED)
    elif backend == "varlen" and bias is None:
        found = attend_with_flash(*tensors, None, segments, None, UNCOMPILED)
    elif backend == "flex":
        found = attend_with_flex(*tensors, given, segments, None, UNCOMPILED)
    else:
        found = attend(*tensors, given, segments, None, UNCOMPILED)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    inputs = [*tensors, *([] if bias is None else [bias])]
    back = torch.randn_like(wanted)
    for mine, theirs in zip(
        torch.autograd.grad(found, inputs, back), torch.autograd.grad(wanted, inputs, back), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("compute", [attend, attend_with_sdpa, attend_with_flex])
def test_a_causal_attention_without_a_bias_is_refused_instead_of_wrong(compute: Callable[..., torch.Tensor]) -> None:
    segments = self_segments(np.array([3]), num_heads=2, is_causal=True, device=CPU)
    tensors = [torch.ones(3, 8)] * 3
    with pytest.raises(ValueError, match="takes a bias"):
        compute(*tensors, None, segments, None, UNCOMPILED)


def test_places_that_no_query_looks_at_are_mostly_not_computed() -> None:
    lengths = np.full(8, 240)
    both_ways, causal = (
        self_segments(lengths, num_heads=1, is_causal=way, device=CPU).buckets for way in (False, True)
    )
    pairs = [
        sum(bucket.num_texts * bucket.num_queries * bucket.num_keys for bucket in buckets)
        for buckets in (both_ways, causal)
    ]
    assert pairs[0] == (lengths**2).sum()
    assert pairs[1] <= 0.7 * pairs[0]
    asked = sorted(
        place for bucket in causal for place in range(bucket.first_place, bucket.first_place + bucket.num_queries)
    )
    assert asked == list(range(240))
    assert all(bucket.num_keys >= bucket.first_place + bucket.num_queries for bucket in causal)


@settings(deadline=None)
@given(LENGTHS)
def test_rows_of_scores_begin_where_a_processor_reads_them_at_once(pairs: list[tuple[int, int]]) -> None:
    queries, keys = np.array(pairs).T
    buckets = cross_segments(queries, keys, num_heads=1, device=CPU).buckets
    assert all(bucket.num_keys % 16 == 0 for bucket in buckets)
    assert max(bucket.num_keys for bucket in buckets) >= keys.max()
    segments = self_segments(keys, num_heads=1, is_causal=False, device=CPU)
    assert segments.num_biased_places > max(bucket.num_keys for bucket in segments.buckets)
