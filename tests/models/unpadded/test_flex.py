"""FlexAttention between concatenated texts, traced as in a run and computed as PyTorch writes it out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe_exp.models.unpadded import flex
from recipe_exp.models.unpadded.attention import attend
from recipe_exp.models.unpadded.compiling import UNCOMPILED
from recipe_exp.models.unpadded.counter_dropout import Dropout
from recipe_exp.models.unpadded.flex import attend_with_flex
from recipe_exp.models.unpadded.segments import Segments, cross_segments, self_segments

CPU = torch.device("cpu")
NUM_HEADS, WIDTH = 2, 4
LENGTHS = ((5, 40), (130, 7), (1, 150), (30, 1))

pytestmark = pytest.mark.usefixtures("flex_trains_here")


def segments_of(kind: str, pairs: tuple[tuple[int, int], ...] = LENGTHS) -> Segments:
    queries, keys = np.array(pairs).T
    if kind == "across":
        return cross_segments(queries, keys, num_heads=NUM_HEADS, device=CPU)
    return self_segments(queries, num_heads=NUM_HEADS, is_causal=kind == "causal", device=CPU)


def found_and_gradients(compute, segments: Segments, dropout: float) -> list[torch.Tensor]:
    """Returns an attention's output and the gradients of queries, keys, values and, where there is one, bias."""
    torch.manual_seed(1)
    counts = [int(lengths.sum()) for lengths in (segments.lengths, segments.key_lengths, segments.key_lengths)]
    tensors = [torch.randn(count, NUM_HEADS * WIDTH, requires_grad=True) for count in counts]
    bias = given = None
    if segments.key_lengths is segments.lengths:
        places = segments.num_biased_places
        bias = given = torch.randn(NUM_HEADS, places, places, requires_grad=True)
        if segments.is_causal:
            given = bias.masked_fill(torch.ones(places, places).triu(1).bool(), -torch.inf)
    site = Dropout(dropout, torch.arange(counts[0], dtype=torch.int32)).at(3, 1)[0] if dropout else None
    output = compute(*tensors, given, segments, site, UNCOMPILED)
    inputs = tensors if bias is None else [*tensors, bias]
    return [output, *torch.autograd.grad(output, inputs, torch.randn_like(output))]


@pytest.mark.parametrize("kind", ["across", "causal", "both ways"])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_it_drops_what_the_arithmetic_written_out_drops(kind: str, dropout: float) -> None:
    segments = segments_of(kind)
    wanted = found_and_gradients(attend, segments, dropout)
    for mine, theirs in zip(found_and_gradients(attend_with_flex, segments, dropout), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_a_token_may_lose_all_that_it_attends_to() -> None:
    # The first token of a decoder sees itself alone.
    segments = segments_of("causal", ((1, 1),) * 40)
    output, *gradients = found_and_gradients(attend_with_flex, segments, 0.6)
    by_head = output.view(-1, WIDTH)
    assert 10 < int((by_head == 0).all(dim=1).sum()) < 70
    for found in gradients:
        assert found.isfinite().all()


def test_a_bias_that_would_get_no_gradient_is_refused() -> None:
    segments = segments_of("both ways")
    places = segments.num_biased_places
    bias = torch.randn(NUM_HEADS, places + 1, places, requires_grad=True)
    tensors = [torch.randn(int(segments.lengths.sum()), NUM_HEADS * WIDTH) for _ in range(3)]
    with pytest.raises(ValueError, match="no gradient"):
        attend_with_flex(*tensors, bias[:, 1:], segments, None, UNCOMPILED)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_the_compiler_traces_it_once_for_all_lengths(dropout: float) -> None:
    torch._dynamo.reset()
    several = [segments_of("causal", ((length, 1), (2 * length, 1), (3, 1))) for length in (40, 90, 170, 333)]
    wanted = [found_and_gradients(attend, segments, dropout) for segments in several]
    torch._dynamo.utils.counters.clear()
    for segments, expected in zip(several, wanted, strict=True):
        for mine, theirs in zip(found_and_gradients(attend_with_flex, segments, dropout), expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1, max_size=12),
    st.sampled_from(["across", "causal", "both ways"]),
)
def test_blocks_that_are_computed_are_those_in_which_a_token_attends(pairs: list[tuple[int, int]], kind: str) -> None:
    segments = segments_of(kind, tuple(pairs))
    texts, key_texts = (np.repeat(np.arange(len(pairs)), side) for side in (segments.lengths, segments.key_lengths))
    attends = texts[:, None] == key_texts
    if kind == "causal":
        attends &= np.arange(len(texts))[:, None] >= np.arange(len(texts))
    size = flex._BLOCK
    padded = np.pad(attends, [(0, -length % size) for length in attends.shape])
    rows, columns = (length // size for length in padded.shape)
    wanted = padded.reshape(rows, size, columns, size).any(axis=(1, 3))
    np.testing.assert_array_equal(flex._computed(segments), wanted)
