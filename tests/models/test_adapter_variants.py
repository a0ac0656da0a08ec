"""Every variant of LoRA against its paper's formula, merged, saved, and over a base in bf16."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSeq2SeqLM, T5ForConditionalGeneration

from recipe_exp.config.training import LoraConfig
from recipe_exp.data.loader import join_texts
from recipe_exp.errors import ModelError
from recipe_exp.models import adapters, load
from recipe_exp.models.base_weights import write_facts
from recipe_exp.models.sequence_loss import SequenceLoss, plain_network

IDS = torch.tensor([[7, 8, 9, 1, 0], [3, 4, 1, 0, 0]])
MASK = (IDS != 0).long()
LABELS = torch.tensor([[11, 12, 1], [13, 1, -100]])
TEXTS = join_texts([[7, 8, 9, 1], [3, 4, 1]], [[11, 12, 1], [13, 1]])
SMALL: dict[str, Any] = {"rank": 2, "alpha": 3.0, "dropout": 0.0}
VARIANTS = {
    "lora": LoraConfig(**SMALL),
    "rslora": LoraConfig(**SMALL, rslora=True),
    "dora": LoraConfig(**SMALL, dora=True, targets="all_linear"),
    "pissa": LoraConfig(**SMALL, init="pissa", targets="all_linear"),
    "pissa_rslora": LoraConfig(**SMALL, init="pissa", rslora=True, targets=("q", "wo")),
    "pissa_dora": LoraConfig(**SMALL, init="pissa", dora=True),
}
every_variant = pytest.mark.parametrize("lora", VARIANTS.values(), ids=VARIANTS)


@pytest.fixture
def base(tmp_path: Path, network: T5ForConditionalGeneration) -> Path:
    load.export_model(network, tmp_path / "base")
    return tmp_path / "base"


def fresh(base: Path, lora: LoraConfig, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return adapters.add_lora(load.load_pretrained(str(base), dtype=dtype), lora, base=str(base))


def trained(base: Path, lora: LoraConfig, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    """An adapter that is somewhere else than it started."""
    network = fresh(base, lora, dtype=dtype, seed=seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return network


def logits(network: Any) -> torch.Tensor:
    network.eval()
    with torch.no_grad():
        found: torch.Tensor = network(input_ids=IDS, attention_mask=MASK, labels=LABELS).logits
    return found


def assert_close(one: torch.Tensor, other: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert (one - other).abs().max() <= tolerance * other.abs().max().clamp(min=1.0)


def save(network: Any, folder: Path) -> Path:
    adapters.save_adapter(network, folder)
    write_facts(folder, adapters.facts_of(network, None))
    return folder


@pytest.mark.parametrize("name", ["lora", "rslora", "dora"])
def test_a_layer_computes_what_its_paper_says(base: Path, name: str) -> None:
    lora = VARIANTS[name]
    layer = plain_network(trained(base, lora)).encoder.block[0].layer[0].SelfAttention.q
    weight, x = layer.base_layer.weight, torch.randn(5, 16)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    scale = lora.alpha / math.sqrt(lora.rank) if lora.rslora else lora.alpha / lora.rank
    assert scale == lora.scale
    updated = weight + scale * b @ a
    if lora.dora:
        magnitudes = layer.lora_magnitude_vector["default"].weight
        updated = torch.diag(magnitudes / updated.pow(2).sum(dim=1).sqrt()) @ updated
    expected = x @ updated.T
    assert (expected - x @ weight.T).abs().max() > 0.1
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_the_gradient_of_dora_takes_the_norm_as_a_constant(base: Path) -> None:
    layer = plain_network(trained(base, VARIANTS["dora"])).encoder.block[0].layer[0].SelfAttention.q
    x, weight = torch.randn(5, 16), layer.base_layer.weight
    a, b, m = (p.detach().clone().requires_grad_() for p in layer.parameters() if p.requires_grad)
    layer(x).pow(2).sum().backward()
    direction = weight + 1.5 * b @ a
    norm = direction.detach().norm(dim=1)
    (x @ ((m / norm)[:, None] * direction).T).pow(2).sum().backward()
    found = [p.grad for p in layer.parameters() if p.requires_grad]
    torch.testing.assert_close(found, [a.grad, b.grad, m.grad], rtol=1e-4, atol=1e-4)


@every_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_fresh_adapter_changes_nothing(base: Path, lora: LoraConfig, dtype: torch.dtype) -> None:
    expected = logits(load.load_pretrained(str(base), dtype=dtype)).float()
    # What PiSSA leaves of a matrix in bf16 is rounded to it once more.
    tolerance = 1e-5 if dtype == torch.float32 or lora.init == "lora" else 0.03
    assert_close(logits(fresh(base, lora, dtype=dtype)).float(), expected, tolerance)


@every_variant
def test_the_adapter_is_in_fp32_over_a_frozen_base_in_bf16_and_learns(base: Path, lora: LoraConfig) -> None:
    network = fresh(base, lora, dtype=torch.bfloat16)
    dtypes = {(parameter.requires_grad, parameter.dtype) for parameter in network.parameters()}
    assert dtypes == {(True, torch.float32), (False, torch.bfloat16)}
    loss = SequenceLoss(network)
    loss.eval()  # without dropout, the only noise
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=0.02)
    frozen = {name: p.clone() for name, p in network.named_parameters() if not p.requires_grad}
    losses = []
    for _ in range(15):
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(TEXTS)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < 0.9 * losses[0]
    assert all(torch.equal(p, frozen[name]) for name, p in network.named_parameters() if name in frozen)


@every_variant
def test_merged_weights_say_what_the_adapter_says(base: Path, lora: LoraConfig) -> None:
    network = trained(base, lora)
    expected = logits(network)
    assert (expected - logits(load.load_pretrained(str(base), dtype=torch.float32))).abs().max() > 0.05
    assert_close(logits(adapters.merge_adapter(network)), expected)


@every_variant
def test_plain_peft_loads_what_is_saved_onto_the_original_base(base: Path, lora: LoraConfig, tmp_path: Path) -> None:
    network = trained(base, lora)
    expected = logits(network)
    folder = save(network, tmp_path / "model")
    plain = AutoModelForSeq2SeqLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    theirs = PeftModel.from_pretrained(plain, folder)
    assert_close(logits(theirs), expected)
    assert_close(logits(theirs.merge_and_unload()), expected)


@every_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_what_is_saved_loads_here_bit_for_bit(base: Path, lora: LoraConfig, tmp_path: Path, dtype: torch.dtype) -> None:
    network = trained(base, lora, dtype=dtype)
    folder = save(network, tmp_path / "model")
    assert torch.equal(logits(adapters.load_with_adapter(folder, dtype=dtype)), logits(network))


@every_variant
def test_a_state_put_back_gives_equal_weights(base: Path, lora: LoraConfig) -> None:
    one, other = trained(base, lora, seed=1), trained(base, lora, seed=2)
    adapters.load_adapter_state(other, adapters.adapter_state(one))
    there = dict(other.named_parameters())
    assert all(torch.equal(parameter, there[name]) for name, parameter in one.named_parameters())


@pytest.mark.parametrize("name", ["nonsense", "lm_head", "shared"])
def test_a_target_that_means_nothing_is_refused_with_the_real_names(base: Path, name: str) -> None:
    with pytest.raises(ModelError, match=rf"{name} means no linear layer of .*name of q, k, v, o, wi_0") as caught:
        fresh(base, LoraConfig(rank=2, targets=("q", name)))
    assert "\n" not in str(caught.value)


def test_targets_are_ends_of_dotted_names(base: Path) -> None:
    network = fresh(
        base, LoraConfig(rank=2, targets=("EncDecAttention.k", "decoder.block.0.layer.2.DenseReluDense.wo"))
    )
    adapted = {name.split(".lora_")[0] for name, p in network.named_parameters() if p.requires_grad}
    assert {name.removeprefix("base_model.model.") for name in adapted} == {
        "decoder.block.0.layer.1.EncDecAttention.k",
        "decoder.block.0.layer.2.DenseReluDense.wo",
    }
