from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, T5ForConditionalGeneration

from recipe_exp.config.model import ModelShape
from recipe_exp.config.training import LoraConfig
from recipe_exp.data.loader import join_texts
from recipe_exp.errors import ModelError
from recipe_exp.models import adapters, load
from recipe_exp.models.finetuned import count_parameters
from recipe_exp.models.sequence_loss import SequenceLoss, plain_network

IDS = torch.tensor([[7, 8, 9, 1, 0], [3, 4, 1, 0, 0]])
MASK = (IDS != 0).long()
LABELS = torch.tensor([[11, 12, 1], [13, 1, -100]])
TEXTS = join_texts([[7, 8, 9, 1], [3, 4, 1]], [[11, 12, 1], [13, 1]])
LORA = LoraConfig(rank=2, alpha=8.0, dropout=0.0)


@pytest.fixture
def base(tmp_path: Path, network: T5ForConditionalGeneration) -> Path:
    load.export_model(network, tmp_path / "base")
    return tmp_path / "base"


def adapted(base: Path, lora: LoraConfig = LORA, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """An adapter that changes what the base says; a fresh one starts at zero."""
    torch.manual_seed(seed)
    network = adapters.add_lora(load.load_pretrained(str(base), dtype=dtype), lora, base=str(base))
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return network


def logits(network: Any) -> torch.Tensor:
    network.eval()
    with torch.no_grad():
        found: torch.Tensor = network(input_ids=IDS, attention_mask=MASK, labels=LABELS).logits
    return found


@pytest.mark.parametrize(
    ("targets", "layers"),
    [
        ("attention_qv", {"q", "v"}),
        ("attention", {"q", "k", "v", "o"}),
        ("all_linear", {"q", "k", "v", "o", "wi_0", "wi_1", "wo"}),
    ],
)
def test_only_the_adapter_of_the_named_layers_is_trained(base: Path, targets: Any, layers: set[str]) -> None:
    lora = LoraConfig(rank=2, targets=targets)
    network = adapted(base, lora)
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert {name.split(".lora_")[0].rsplit(".", 1)[1] for name in trained} == layers
    assert all(".lora_A." in name or ".lora_B." in name for name in trained)
    plain = load.load_pretrained(str(base), dtype=torch.float32)
    adapted_layers = [
        module
        for name, module in plain.named_modules()
        if isinstance(module, torch.nn.Linear) and name.rsplit(".", 1)[-1] in layers
    ]
    assert count_parameters(network)[0] == sum(2 * (m.in_features + m.out_features) for m in adapted_layers)


def test_a_fresh_adapter_changes_nothing(base: Path) -> None:
    plain = load.load_pretrained(str(base), dtype=torch.float32)
    expected = logits(plain)
    assert torch.equal(logits(adapters.add_lora(plain, LORA, base=str(base))), expected)


def test_its_update_is_alpha_over_rank_times_b_a(base: Path) -> None:
    network = adapted(base)
    state = adapters.adapter_state(network)
    prefix = "base_model.model.encoder.block.0.layer.0.SelfAttention.q"
    before = plain_network(network).encoder.block[0].layer[0].SelfAttention.q.weight.detach().clone()
    merged = adapters.merge_adapter(network)
    update = 4.0 * state[f"{prefix}.lora_B.weight"] @ state[f"{prefix}.lora_A.weight"]
    assert update.norm() > 0.1
    torch.testing.assert_close(merged.encoder.block[0].layer[0].SelfAttention.q.weight, before + update)


def test_the_state_holds_the_adapter_alone(base: Path) -> None:
    network = adapted(base)
    state = adapters.adapter_state(network)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    assert len(state) == len(trained)
    assert sum(tensor.numel() for tensor in state.values()) == sum(parameter.numel() for parameter in trained)
    assert all("lora_" in name for name in state)


def test_a_state_put_back_gives_equal_logits(base: Path) -> None:
    one, other = adapted(base, seed=1), adapted(base, seed=2)
    assert not torch.equal(logits(one), logits(other))
    adapters.load_adapter_state(other, adapters.adapter_state(one))
    assert torch.equal(logits(one), logits(other))


def test_the_state_of_another_adapter_is_refused_in_one_line(base: Path) -> None:
    network = adapted(base)
    before = logits(network)
    wider = adapters.adapter_state(adapted(base, LoraConfig(rank=3)))
    more = adapters.adapter_state(adapted(base, LoraConfig(rank=2, targets="attention")))
    fewer = dict(list(adapters.adapter_state(network).items())[1:])
    for state in (wider, more, fewer, {}):
        with pytest.raises(ModelError, match="do not fit") as caught:
            adapters.load_adapter_state(network, state)
        assert "\n" not in str(caught.value)
    assert torch.equal(logits(network), before)


def test_a_saved_adapter_loads_here_and_in_plain_peft(base: Path, tmp_path: Path) -> None:
    network = adapted(base)
    folder = tmp_path / "model"
    adapters.save_adapter(network, folder)
    assert {file.name for file in folder.iterdir()} >= {adapters.ADAPTER_CONFIG, adapters.ADAPTER_WEIGHTS}
    assert network.peft_config["default"].inference_mode is False, "saving must not freeze the adapter"
    expected = logits(network)
    assert torch.equal(logits(adapters.load_with_adapter(folder, dtype=torch.float32)), expected)
    plain = AutoModelForSeq2SeqLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    assert torch.equal(logits(PeftModel.from_pretrained(plain, folder)), expected)


def test_merged_weights_say_what_the_adapter_says(base: Path) -> None:
    network = adapted(base, LoraConfig(rank=4, targets="all_linear"))
    plain = load.load_pretrained(str(base), dtype=torch.float32)
    expected = logits(network)
    assert (expected - logits(plain)).abs().max() > 0.1
    merged = adapters.merge_adapter(network)
    assert type(merged) is T5ForConditionalGeneration
    assert not any("lora" in name for name in merged.state_dict())
    assert (logits(merged) - expected).abs().max() <= 1e-5 * expected.abs().max().clamp(min=1.0)


def test_a_base_in_the_run_folder_is_found_where_the_run_lies_now(base: Path, tmp_path: Path) -> None:
    network = adapted(base)
    expected = logits(network)
    places = ("model", "checkpoints/step-00000002")
    for place in places:
        adapters.save_adapter(network, tmp_path / place)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for place in ("base", "model", "checkpoints"):
        shutil.move(tmp_path / place, moved)
    for place in places:
        assert torch.equal(logits(adapters.load_with_adapter(moved / place, dtype=torch.float32)), expected)


def test_the_revision_of_the_base_is_stored_and_asked_for(
    base: Path, network: T5ForConditionalGeneration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapped = adapters.add_lora(network, LORA, base=str(base), revision="v7")
    adapters.save_adapter(wrapped, tmp_path / "model")
    assert json.loads((tmp_path / "model" / adapters.ADAPTER_CONFIG).read_text())["revision"] == "v7"
    asked = []

    def load_pretrained(name: str, revision: str | None = None, **settings: Any) -> T5ForConditionalGeneration:
        asked.append(revision)
        return load.load_pretrained(name, **settings)

    monkeypatch.setattr(adapters, "load_pretrained", load_pretrained)
    adapters.load_with_adapter(tmp_path / "model", dtype=torch.float32)
    assert asked == ["v7"]


@pytest.mark.parametrize("damage", ["no weights", "half the weights", "no LoRA", "no base"])
def test_an_adapter_that_cannot_be_read_is_refused_in_one_line(base: Path, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "model"
    adapters.save_adapter(adapted(base), folder)
    weights, config = folder / adapters.ADAPTER_WEIGHTS, folder / adapters.ADAPTER_CONFIG
    match damage:
        case "no weights":
            weights.unlink()
        case "half the weights":
            weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
        case "no LoRA":
            config.write_text("{", encoding="utf-8")
        case "no base":
            shutil.rmtree(base)
    with pytest.raises(ModelError) as caught:
        adapters.load_with_adapter(folder, dtype=torch.float32)
    assert "\n" not in str(caught.value)


def test_an_adapter_in_fp32_learns_over_a_frozen_base_in_bf16(base: Path) -> None:
    network = adapted(base, dtype=torch.bfloat16)
    dtypes = {(parameter.requires_grad, parameter.dtype) for parameter in network.parameters()}
    assert dtypes == {(True, torch.float32), (False, torch.bfloat16)}
    loss = SequenceLoss(network)
    loss.train()
    frozen = {name: tensor.clone() for name, tensor in network.state_dict().items() if "lora_" not in name}
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=0.03)
    losses = []
    for _ in range(8):
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(TEXTS)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in network.state_dict().items() if name in frozen)


def test_gradient_checkpointing_reaches_the_adapter_below_frozen_embeddings(base: Path, shape: ModelShape) -> None:
    def gradients(is_checkpointed: bool) -> list[torch.Tensor]:
        network = load.load_pretrained(str(base), dtype=torch.float32)
        load.set_dropout(network, 0.0)
        if is_checkpointed:
            network.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        torch.manual_seed(0)
        wrapped = adapters.add_lora(network, LORA, base=str(base)).train()
        SequenceLoss(wrapped)(TEXTS).backward()
        return [p.grad for p in wrapped.parameters() if p.requires_grad and p.grad is not None]

    plain, recomputed = gradients(False), gradients(True)
    num_layers = shape.num_layers + 2 * shape.num_decoder_layers
    assert len(plain) == 2 * 2 * num_layers
    torch.testing.assert_close(recomputed, plain)


def test_an_adapter_is_told_from_a_bare_network(base: Path, network: T5ForConditionalGeneration) -> None:
    assert adapters.is_adapter(adapted(base))
    assert not adapters.is_adapter(network)
    assert type(plain_network(adapted(base))) is T5ForConditionalGeneration


def test_written_weights_are_safetensors(base: Path, tmp_path: Path) -> None:
    network = adapted(base)
    adapters.save_adapter(network, tmp_path / "model")
    stored = load_file(tmp_path / "model" / adapters.ADAPTER_WEIGHTS)
    state = adapters.adapter_state(network)
    assert stored.keys() == state.keys()
    assert all(torch.equal(stored[name], state[name]) for name in state)
