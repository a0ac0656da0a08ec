from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from transformers import T5ForConditionalGeneration

from recipe_exp.config.model import ModelShape
from recipe_exp.data.loader import MicroBatch, join_texts
from recipe_exp.models import load
from recipe_exp.models.sequence_loss import SequenceLoss, plain_network

Row = tuple[list[int], list[int]]
SHAPE = ModelShape(vocab_size=60, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_decoder_layers=1, num_heads=3)


def build(*, is_tied: bool = False, attention: str = "eager") -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    shape = SHAPE.model_copy(update={"tie_word_embeddings": is_tied})
    return load.from_shape(shape, dtype=torch.float32, attention=attention).eval()


def rows(*lengths: tuple[int, int]) -> list[Row]:
    generator = torch.Generator().manual_seed(5)

    def text(length: int) -> list[int]:
        return [*torch.randint(3, 60, (length - 1,), generator=generator).tolist(), 1]

    return [(text(source), text(target)) for source, target in lengths]


def batch(examples: list[Row]) -> MicroBatch:
    return join_texts([source for source, _ in examples], [target for _, target in examples])


EXAMPLES = rows((3, 9), (12, 2), (7, 15), (1, 1), (5, 6))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("is_tied", [False, True])
def test_it_is_the_loss_of_transformers_times_its_tokens(is_tied: bool, attention: str) -> None:
    network = build(is_tied=is_tied, attention=attention)
    ids, mask, labels = batch(EXAMPLES).padded(0)
    theirs = network(input_ids=ids, attention_mask=mask, labels=labels).loss * (labels != -100).sum()
    torch.testing.assert_close(SequenceLoss(network)(batch(EXAMPLES)), theirs, rtol=1e-6, atol=0)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.sampled_from(EXAMPLES), min_size=1, max_size=6), st.data())
def test_it_does_not_depend_on_company(examples: list[Row], data: st.DataObject) -> None:
    loss = SequenceLoss(build())
    cut = data.draw(st.integers(0, len(examples)))
    parts = [part for part in (examples[:cut], examples[cut:]) if part]
    with torch.no_grad():
        alone = sum(float(loss(batch([example]))) for example in examples)
        together = float(loss(batch(examples)))
        in_parts = sum(float(loss(batch(part))) for part in parts)
    assert together == pytest.approx(alone, rel=1e-5)
    assert in_parts == pytest.approx(alone, rel=1e-5)


def test_gradients_of_micro_batches_add_up_to_the_whole() -> None:
    def gradients(parts: list[list[Row]]) -> torch.Tensor:
        loss = SequenceLoss(build())
        for part in parts:
            loss(batch(part)).backward()
        return torch.cat([parameter.grad.flatten() for parameter in loss.parameters() if parameter.grad is not None])

    whole = gradients([EXAMPLES])
    assert whole.norm() > 0
    for parts in ([[example] for example in EXAMPLES], [EXAMPLES[:2], EXAMPLES[2:]]):
        assert (gradients(parts) - whole).norm() <= 1e-5 * whole.norm()


@pytest.mark.parametrize("smoothing", [0.1, 0.7])
def test_label_smoothing_spreads_its_share_evenly_over_the_vocabulary(smoothing: float) -> None:
    network = build()
    ids, mask, labels = batch(EXAMPLES).padded(0)
    with torch.no_grad():
        log_probabilities = functional.log_softmax(
            network(input_ids=ids, attention_mask=mask, labels=labels).logits.double(), dim=-1
        )
        found = SequenceLoss(network)(batch(EXAMPLES), label_smoothing=smoothing)
    expected = 0.0
    for row, column in (labels != -100).nonzero().tolist():
        of_token = log_probabilities[row, column]
        target = torch.full_like(of_token, smoothing / SHAPE.vocab_size)
        target[labels[row, column]] += 1 - smoothing
        expected -= float((target * of_token).sum())
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_a_later_target_token_does_not_reach_an_earlier_one() -> None:
    loss = SequenceLoss(build())
    source = [5, 6, 1]
    with torch.no_grad():
        first = float(loss(batch([(source, [9])])))
        both = [float(loss(batch([(source, [9, token])]))) for token in (4, 11)]
        second = [float(loss(batch([(source, [9, token])]))) - first for token in (4, 11)]
    assert second[0] != pytest.approx(second[1], rel=1e-3)
    assert [total - part for total, part in zip(both, second, strict=True)] == pytest.approx([first, first])


def test_logits_in_bf16_are_summed_in_fp32() -> None:
    loss = SequenceLoss(build().to(torch.bfloat16))
    with torch.no_grad():
        found = loss(batch(EXAMPLES))
    assert found.dtype == torch.float32
    in_fp32 = SequenceLoss(build())(batch(EXAMPLES)).item()
    assert float(found) == pytest.approx(in_fp32, rel=0.02)


def test_the_bare_network_is_its_own_t5() -> None:
    network = build()
    assert plain_network(network) is network


def test_the_sums_of_examples_are_those_of_each_alone() -> None:
    loss = SequenceLoss(build())
    found = loss(batch(EXAMPLES), by_example=True)
    alone = torch.stack([loss(batch([example])) for example in EXAMPLES])
    torch.testing.assert_close(found, alone, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.sum(), loss(batch(EXAMPLES)), rtol=1e-6, atol=0)
