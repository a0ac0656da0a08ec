"""A base in 4 bits, through the library itself on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import T5ForConditionalGeneration

from recipe_exp.config.lora_targets import adapted_modules
from recipe_exp.config.model import ModelConfig, ModelShape
from recipe_exp.config.training import AdamWConfig, ConstantScheduleConfig, LoraConfig, TrainingConfig
from recipe_exp.data.loader import join_texts
from recipe_exp.errors import ModelError
from recipe_exp.models import adapters, quantized
from recipe_exp.models.base_weights import read_facts
from recipe_exp.models.finetuned import build_trainable, describe_model, load_model_folder
from recipe_exp.models.sequence_loss import SequenceLoss, plain_network

pytest.importorskip("bitsandbytes")

IDS = torch.tensor([[7, 8, 9, 1, 0], [3, 4, 1, 0, 0]])
MASK = (IDS != 0).long()
LABELS = torch.tensor([[11, 12, 1], [13, 1, -100]])
TEXTS = join_texts([[7, 8, 9, 1], [3, 4, 1]], [[11, 12, 1], [13, 1]])
SHAPE = ModelShape(vocab_size=60, d_model=64, d_kv=16, d_ff=128, num_layers=1, num_decoder_layers=1, num_heads=4)


def build(tmp_path: Path, *, precision: str = "fp32", **lora: Any) -> Any:
    torch.manual_seed(0)
    adapter = LoraConfig(**{"rank": 2, "dropout": 0.0, "quantization": "nf4", **lora})
    training = TrainingConfig(optimizer=AdamWConfig(), schedule=ConstantScheduleConfig(), adapter=adapter)
    model = ModelConfig(name="tiny", pretrained=False, shape=SHAPE)
    return build_trainable(model, training, precision=precision, attention="eager", base_folder=tmp_path / "base")


def logits(network: Any) -> torch.Tensor:
    network.eval()
    with torch.no_grad():
        found: torch.Tensor = network(input_ids=IDS, attention_mask=MASK, labels=LABELS).logits
    return found


def linear_types(network: nn.Module) -> dict[str, str]:
    plain = {name: module for name, module in plain_network(network).named_modules() if isinstance(module, nn.Linear)}
    return {
        name.replace(".base_layer", ""): type(module).__name__ for name, module in plain.items() if "lora_" not in name
    }


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_all_matrices_of_the_blocks_but_wo_are_held_in_4_bits(
    tmp_path: Path, precision: str, dtype: torch.dtype
) -> None:
    """What planning counts: `wo`, the output projection and the embedding stay as they are."""
    network = build(tmp_path, precision=precision)
    types = linear_types(network)
    in_4_bits = {name for name, kind in types.items() if kind == "Linear4bit"}
    assert in_4_bits == set(adapted_modules(SHAPE, ("q", "k", "v", "o", "wi_0", "wi_1")))
    assert {name.rpartition(".")[2] for name in set(types) - in_4_bits} == {"wo", "lm_head"}
    t5: Any = plain_network(network)
    assert t5.encoder.block[0].layer[1].DenseReluDense.wo.weight.dtype == t5.shared.weight.dtype == dtype
    layer = t5.encoder.block[0].layer[0].SelfAttention.k
    state = layer.weight.quant_state
    assert (layer.compute_dtype, state.quant_type, state.nested) == (dtype, "nf4", True)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    assert {parameter.dtype for parameter in trained} == {torch.float32}


@pytest.mark.parametrize("variant", [{}, {"rslora": True}, {"dora": True}], ids=["lora", "rslora", "dora"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_adapter_learns_over_it(tmp_path: Path, variant: dict[str, Any], precision: str) -> None:
    network = build(tmp_path, precision=precision, targets="all_linear", **variant)
    loss = SequenceLoss(network).eval()
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=0.02)
    frozen = {name: p.clone() for name, p in network.named_parameters() if not p.requires_grad}
    losses = []
    for _ in range(8):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            value = loss(TEXTS)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < 0.9 * losses[0]
    assert all(torch.equal(p, frozen[name]) for name, p in network.named_parameters() if name in frozen)


def test_an_evaluation_changes_nothing_of_it(tmp_path: Path) -> None:
    """The library's own kernel for a CPU without gradients would change layout and numbers for good."""
    network = build(tmp_path)
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    loss = SequenceLoss(network).eval()
    with torch.no_grad():
        evaluated = loss(TEXTS)
    with_gradients = loss(TEXTS)
    torch.testing.assert_close(evaluated, with_gradients.detach(), rtol=1e-6, atol=0)
    with_gradients.backward()
    assert all(torch.equal(parameter, before[name]) for name, parameter in network.named_parameters())
    assert all(p.grad.norm() > 0 for name, p in network.named_parameters() if "lora_B" in name)


def test_a_fresh_adapter_of_dora_changes_nothing(tmp_path: Path) -> None:
    expected = logits(build(tmp_path, targets="all_linear"))
    torch.testing.assert_close(logits(build(tmp_path, targets="all_linear", dora=True)), expected, rtol=1e-4, atol=1e-4)


def saved(network: Any, folder: Path) -> Path:
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    describe_model(network, folder, base=None)
    adapters.save_adapter(network, folder)
    return folder


def test_it_is_loaded_as_it_was_trained_or_plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = build(tmp_path)
    folder = saved(network, tmp_path / "model")
    assert read_facts(folder).quantization == "nf4"
    expected = logits(network)
    assert torch.equal(logits(load_model_folder(folder, as_trained=True)), expected)
    plain = load_model_folder(folder)
    assert "Linear4bit" not in linear_types(plain).values()
    difference = (logits(plain) - expected).abs().max()
    assert 1e-3 < difference < 0.5 * expected.abs().max()
    monkeypatch.setattr(quantized, "find_spec", lambda _: None)
    assert torch.equal(logits(load_model_folder(folder, as_trained=True)), logits(plain))


def test_it_is_merged_into_the_original_base(tmp_path: Path) -> None:
    folder = saved(build(tmp_path), tmp_path / "model")
    merged = adapters.merge_adapter(load_model_folder(folder))
    assert type(merged) is T5ForConditionalGeneration
    torch.testing.assert_close(logits(merged), logits(load_model_folder(folder)), rtol=1e-5, atol=1e-5)


def test_without_the_package_it_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized, "find_spec", lambda _: None)
    with pytest.raises(
        ModelError, match=r"bitsandbytes is not installed; pip install 'recipe-exp\[quantized\]'"
    ) as caught:
        build(tmp_path)
    assert "\n" not in str(caught.value)


def test_nothing_is_asked_for_without_quantisation() -> None:
    assert quantized.loading_settings("none", dtype=torch.float32, device="cuda") == {}
    assert quantized.loading_settings("nf4", dtype=torch.float32, device="cuda")["device_map"] == {"": 0}


def test_a_plain_network_is_not_quantised(network: T5ForConditionalGeneration) -> None:
    assert quantized.quantization_of(network) == "none"
