"""The chunked loss against the definition over one matrix of logits, and what it keeps in memory."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from recipe_exp.models import chunked_cross_entropy
from recipe_exp.models.chunked_cross_entropy import summed_cross_entropy, tokens_at_once
from recipe_exp.models.unpadded.compiling import UNCOMPILED, Kernels

WIDTH = 12


def problem(num_tokens: int, vocab_size: int, dtype: torch.dtype = torch.float32, seed: int = 0):
    torch.manual_seed(seed)
    hidden = torch.randn(num_tokens, WIDTH).to(dtype).requires_grad_()
    head = nn.Linear(WIDTH, vocab_size, bias=False).to(dtype)
    return hidden, head, torch.randint(0, vocab_size, (num_tokens,))


def defined(hidden, head, labels, smoothing):
    return functional.cross_entropy(head(hidden).float(), labels, reduction="sum", label_smoothing=smoothing)


@settings(deadline=None, max_examples=40)
@given(
    num_tokens=st.integers(0, 40),
    vocab_size=st.integers(2, 50),
    at_once=st.integers(1, 45),
    smoothing=st.sampled_from([0.0, 0.1, 0.6]),
)
def test_loss_and_gradients_are_those_of_the_definition(num_tokens, vocab_size, at_once, smoothing):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked_cross_entropy, "MAX_LOGITS_BYTES", 4 * vocab_size * at_once)
        found = problem(num_tokens, vocab_size)
        value = summed_cross_entropy(*found, label_smoothing=smoothing)
        (value * 0.3).backward()
    expected = problem(num_tokens, vocab_size)
    wanted = defined(*expected, smoothing)
    (wanted * 0.3).backward()
    torch.testing.assert_close(value, wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[0].grad, expected[0].grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found[1].weight.grad, expected[1].weight.grad, rtol=1e-4, atol=1e-6)


def test_autocast_rounds_no_more_than_one_matrix_of_logits_does():
    def run(function):
        hidden, head, labels = problem(64, 200, seed=3)
        with torch.autocast("cpu", torch.bfloat16):
            value = function(hidden, head, labels)
        value.backward()
        return value, hidden.grad, head.weight.grad

    exact = problem(64, 200, seed=3)
    wanted = defined(*exact, 0.0)
    wanted.backward()
    chunked = run(lambda *args: summed_cross_entropy(*args))
    whole = run(lambda *args: defined(*args, 0.0))
    for mine, theirs, true in zip(chunked, whole, (wanted, exact[0].grad, exact[1].weight.grad), strict=True):
        assert mine.dtype == torch.float32
        assert (mine - true).norm() <= 1.2 * (theirs - true).norm() + 1e-6 * true.norm()


def test_many_shares_in_bf16_are_added_in_fp32(monkeypatch):
    hidden, head, labels = problem(512, 16, torch.bfloat16)
    monkeypatch.setattr(chunked_cross_entropy, "MAX_LOGITS_BYTES", 4 * 16)
    summed_cross_entropy(hidden, head, labels).backward()
    exact_hidden, exact_head, _ = problem(512, 16, torch.bfloat16)
    exact = exact_hidden.detach().float().requires_grad_(), exact_head.float(), labels
    defined(*exact, 0.0).backward()
    assert head.weight.grad.dtype == torch.bfloat16
    assert (head.weight.grad.float() - exact[1].weight.grad).norm() <= 0.01 * exact[1].weight.grad.norm()


def test_a_frozen_projection_gets_no_gradient():
    hidden, head, labels = problem(5, 7)
    head.requires_grad_(False)
    summed_cross_entropy(hidden, head, labels).backward()
    assert head.weight.grad is None
    assert hidden.grad.abs().sum() > 0


def test_without_gradients_none_is_made():
    hidden, head, labels = problem(5, 7)
    with torch.no_grad():
        value = summed_cross_entropy(hidden, head, labels)
    assert not value.requires_grad
    torch.testing.assert_close(value, defined(hidden, head, labels, 0.0).detach())


def test_a_second_backward_pass_is_refused_instead_of_wrong():
    hidden, head, labels = problem(5, 7)
    value = summed_cross_entropy(hidden, head, labels)
    value.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="there once"):
        value.backward()


def test_chunks_hold_at_most_the_bytes_they_may():
    assert tokens_at_once(32128) * 32128 * 4 <= chunked_cross_entropy.MAX_LOGITS_BYTES
    assert tokens_at_once(10**9) == 1
    assert tokens_at_once(32) == chunked_cross_entropy.MAX_TOKENS


def test_a_compiler_that_fails_half_way_leaves_the_logits_as_they_were(monkeypatch):
    def compiled(function, **_):
        def fail(*arguments):
            if function.__name__.endswith("_"):
                arguments[0].zero_()
            raise RuntimeError("half-way")

        return fail

    monkeypatch.setattr(torch, "compile", compiled)
    found, expected = problem(6, 9), problem(6, 9)
    summed_cross_entropy(*found, kernels=Kernels(is_compiled=True)).backward()
    summed_cross_entropy(*expected, kernels=UNCOMPILED).backward()
    assert torch.equal(found[0].grad, expected[0].grad)
    assert torch.equal(found[1].weight.grad, expected[1].weight.grad)
