"""The unpadded forward pass against transformers' padded one: loss and every gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn import functional

from recipe_exp.data.loader import MicroBatch, join_texts
from recipe_exp.models.sequence_loss import SequenceLoss
from recipe_exp.models.unpadded.compiling import UNCOMPILED, Kernels
from recipe_exp.models.unpadded.counter_dropout import column_keys
from recipe_exp.models.unpadded.t5 import position_bias

pytestmark = pytest.mark.usefixtures("flash_attn", "flex_trains_here")
Builder = Callable[..., Any]
KERNELS = ("eager", "sdpa", "sdpa_varlen", "flex", "flex_varlen")


def gradient_of(network: Any, loss: Callable[[], torch.Tensor]) -> tuple[float, torch.Tensor]:
    """Returns a loss and the gradient of every weight that has one, as one vector."""
    network.zero_grad()
    value = loss()
    torch.autograd.backward(value)
    parts = [parameter.grad.flatten().float() for parameter in network.parameters() if parameter.grad is not None]
    return float(value.detach()), torch.cat(parts)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert expected.norm() > 0
    return float((found - expected).norm() / expected.norm())


def padded_loss(network: Any, batch: MicroBatch) -> torch.Tensor:
    """The definition, through transformers."""
    input_ids, attention_mask, labels = batch.padded(0)
    logits = network(input_ids=input_ids, attention_mask=attention_mask, labels=labels).logits
    return functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="sum")


@pytest.mark.parametrize("attention", KERNELS)
@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_loss_and_gradients_are_those_of_transformers(
    built: Builder, batch: MicroBatch, kernels: Kernels, attention: str, is_checkpointed: bool
) -> None:
    network = built(attention)
    expected_loss, expected = gradient_of(network, lambda: padded_loss(network, batch))
    if is_checkpointed:
        network.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    loss, gradient = gradient_of(network, lambda: SequenceLoss(network, kernels)(batch))
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert relative(gradient, expected) < 1e-5


@pytest.mark.parametrize("attention", KERNELS)
@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_gradients_in_bf16_are_close(
    built: Builder, batch: MicroBatch, kernels: Kernels, attention: str, is_checkpointed: bool
) -> None:
    network = built(attention)
    expected_loss, expected = gradient_of(network, lambda: padded_loss(network, batch))
    if is_checkpointed:
        network.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})

    def in_bf16() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            result: torch.Tensor = SequenceLoss(network, kernels)(batch)
        return result

    loss, gradient = gradient_of(network, in_bf16)
    assert loss == pytest.approx(expected_loss, rel=1e-2)
    assert relative(gradient, expected) < 3e-2


@pytest.mark.parametrize("attention", KERNELS)
@pytest.mark.parametrize("is_checkpointed", [False, True])
@pytest.mark.parametrize(("is_bf16", "tolerance"), [(False, 1e-5), (True, 3e-2)], ids=["fp32", "bf16"])
def test_an_adapter_learns_the_same(
    built: Builder,
    batch: MicroBatch,
    kernels: Kernels,
    attention: str,
    is_checkpointed: bool,
    is_bf16: bool,
    tolerance: float,
) -> None:
    base = built(attention)
    adapted: Any = get_peft_model(base, LoraConfig(r=4, target_modules=["q", "v", "wo", "wi_1"], lora_dropout=0.0))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    _, expected = gradient_of(adapted, lambda: padded_loss(adapted, batch))
    if is_checkpointed:
        base.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
        _, gradient = gradient_of(adapted, lambda: SequenceLoss(adapted, kernels)(batch))
    assert relative(gradient, expected) < tolerance


@pytest.mark.parametrize("kind", ["relu", "gated-silu", "gelu"])
def test_other_activations_are_computed_by_their_modules(batch: MicroBatch, kind: str) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=80,
        d_model=16,
        d_kv=4,
        d_ff=24,
        num_layers=1,
        num_heads=2,
        feed_forward_proj=kind,
        decoder_start_token_id=0,
        dropout_rate=0.0,
    )
    network = T5ForConditionalGeneration(config).train()
    expected_loss, expected = gradient_of(network, lambda: padded_loss(network, batch))
    loss, gradient = gradient_of(network, lambda: SequenceLoss(network)(batch))
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert relative(gradient, expected) < 1e-5


@pytest.mark.parametrize("attention", ["eager", "flex"])
def test_dropout_is_the_same_compiled_checkpointed_and_however_the_texts_are_grouped(
    built: Builder, batch: MicroBatch, kernels: Kernels, attention: str
) -> None:
    plain = built(dropout=0.2)
    expected_loss, expected = gradient_of(plain, lambda: SequenceLoss(plain, UNCOMPILED)(batch))
    network = built(attention, dropout=0.2)
    parts = [one_of(batch, index) for index in range(len(batch.indices))]
    loss, gradient = gradient_of(network, lambda: sum(map(SequenceLoss(network, kernels), parts), torch.zeros(())))
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert relative(gradient, expected) < 1e-5
    network.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    loss, gradient = gradient_of(network, lambda: SequenceLoss(network, kernels)(batch))
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert relative(gradient, expected) < 1e-5


def one_of(batch: MicroBatch, index: int) -> MicroBatch:
    """Returns one text pair of a micro-batch with its keys of dropout."""
    sources, targets = batch.source_lengths.tolist(), batch.target_lengths.tolist()
    pair = join_texts(
        [batch.source_ids.split(sources)[index].numpy()], [batch.target_ids.split(targets)[index].numpy()]
    )
    return replace(
        pair,
        source_keys=batch.source_keys.split(sources)[index],
        target_keys=batch.target_keys.split(targets)[index],
    )


@pytest.mark.parametrize("attention", KERNELS)
def test_dropout_changes_the_loss_as_much_as_that_of_transformers(
    built: Builder, batch: MicroBatch, attention: str
) -> None:
    network = built(attention, dropout=0.3)
    with torch.no_grad():
        theirs = torch.stack([padded_loss(network, batch) for _ in range(60)])
        ours = []
        for step in range(60):
            keyed = join_texts(
                [ids.numpy() for ids in batch.source_ids.split(batch.source_lengths.tolist())],
                [ids.numpy() for ids in batch.target_ids.split(batch.target_lengths.tolist())],
                noise=(0, step),
            )
            ours.append(SequenceLoss(network)(keyed))
    found = torch.stack(ours)
    error = (theirs.var() / 60 + found.var() / 60).sqrt()
    assert abs(theirs.mean() - found.mean()) < 4 * error
    assert 0.5 < found.std() / theirs.std() < 2.0


def test_evaluation_has_no_dropout(built: Builder, batch: MicroBatch) -> None:
    network = built(dropout=0.5).eval()
    plain = built().eval()
    assert torch.equal(SequenceLoss(network)(batch), SequenceLoss(plain)(batch))


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_the_position_bias_is_that_of_transformers(built: Builder, stack: str) -> None:
    attention = getattr(built(), stack).block[0].layer[0].SelfAttention
    for longest in (1, 2, 40, 300):
        wanted = attention.compute_bias(longest, longest)[0]
        if stack == "decoder":
            wanted = wanted.masked_fill(torch.ones(longest, longest).triu(1).bool(), -torch.inf)
        torch.testing.assert_close(position_bias(attention, longest), wanted)


def test_linear_layers_see_no_padding(built: Builder, batch: MicroBatch) -> None:
    network = built()
    seen: dict[str, int] = {}
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda _, args, __, name=name: seen.update({name: args[0].numel()}))
    SequenceLoss(network)(batch)
    width = network.config.d_model
    assert seen["encoder.block.0.layer.0.SelfAttention.q"] == width * len(batch.source_ids)
    assert seen["decoder.block.2.layer.1.EncDecAttention.k"] == width * len(batch.source_ids)
    assert seen["decoder.block.2.layer.2.DenseReluDense.wi_0"] == width * len(batch.target_ids)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_forward_and_backward_pass_never_wait_for_the_device(
    request: pytest.FixtureRequest, built: Builder, batch: MicroBatch, attention: str, is_checkpointed: bool
) -> None:
    network = built(attention, dropout=0.1)
    if is_checkpointed:
        network.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    # Fake tensors have no values, so whatever reads one on the host raises. None may stay in a cache.
    column_keys.cache_clear()
    request.addfinalizer(column_keys.cache_clear)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        weights = {weight: torch.nn.Parameter(mode.from_tensor(weight)) for weight in network.parameters()}
        for module in network.modules():
            for name, weight in module.named_parameters(recurse=False):
                setattr(module, name, weights[weight])
        fakes = {name: mode.from_tensor(value) for name, value in vars(batch).items() if torch.is_tensor(value)}
        loss = SequenceLoss(network)(replace(batch, **fakes))
        torch.autograd.backward(loss)
        with pytest.raises(DataDependentOutputException):
            float(loss.detach())
    assert all(weight.grad is not None for weight in network.parameters())
