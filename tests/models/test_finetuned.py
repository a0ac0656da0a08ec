from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForSeq2SeqLM, T5ForConditionalGeneration

from recipe_exp.config.model import ModelConfig, ModelShape
from recipe_exp.config.training import (
    AdamWConfig,
    ConstantScheduleConfig,
    LoraConfig,
    NoAdapterConfig,
    TrainingConfig,
)
from recipe_exp.errors import ModelError
from recipe_exp.models import finetuned, load
from recipe_exp.models.finetuned import (
    build_trainable,
    describe_model,
    load_model_folder,
    load_tuned_state,
    tuned_state,
    weights_file,
)

IDS = torch.tensor([[7, 8, 9, 1, 0], [3, 4, 1, 0, 0]])
MASK = (IDS != 0).long()
LABELS = torch.tensor([[11, 12, 1], [13, 1, -100]])


def training(adapter: LoraConfig | NoAdapterConfig) -> TrainingConfig:
    return TrainingConfig(optimizer=AdamWConfig(), schedule=ConstantScheduleConfig(), adapter=adapter)


FULL = training(NoAdapterConfig())
LORA = training(LoraConfig(rank=2, dropout=0.0))


def build(shape: ModelShape, how: TrainingConfig, folder: Path, *, seed: int = 0, precision: str = "fp32") -> Any:
    """A network of random weights, moved away from where it started."""
    torch.manual_seed(seed)
    config = ModelConfig(name="tiny", pretrained=False, shape=shape)
    network = build_trainable(config, how, precision=precision, attention="eager", base_folder=folder / "base")
    for parameter in network.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    return network


def write(network: Any, folder: Path) -> None:
    """The loadable part of a checkpoint."""
    describe_model(network, folder)
    save_file(tuned_state(network), folder / weights_file(network), metadata={"format": "pt"})


def logits(network: Any) -> torch.Tensor:
    network.eval()
    with torch.no_grad():
        found: torch.Tensor = network(input_ids=IDS, attention_mask=MASK, labels=LABELS).logits
    return found


def test_tuned_weights_are_fp32_and_a_frozen_base_follows_the_computation(shape: ModelShape, tmp_path: Path) -> None:
    def dtypes(how: TrainingConfig, precision: str) -> set[tuple[bool, torch.dtype]]:
        network = build(shape, how, tmp_path / precision, precision=precision)
        assert network.training
        return {(parameter.requires_grad, parameter.dtype) for parameter in network.parameters()}

    assert dtypes(FULL, "bf16") == dtypes(FULL, "fp32") == {(True, torch.float32)}
    assert dtypes(LORA, "bf16") == {(True, torch.float32), (False, torch.bfloat16)}
    assert dtypes(LORA, "fp32") == {(True, torch.float32), (False, torch.float32)}


def test_a_random_base_is_saved_whole_for_its_adapter(
    shape: ModelShape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = load.export_model

    def die_half_way(network: T5ForConditionalGeneration, folder: Path) -> None:
        export(network, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(load, "export_model", die_half_way)
    with pytest.raises(KeyboardInterrupt):
        build(shape, LORA, tmp_path)
    assert not (tmp_path / "base").exists(), "half a base must not pass for one"
    monkeypatch.undo()
    network = build(shape, LORA, tmp_path)
    write(network, tmp_path / "model")
    assert torch.equal(logits(load_model_folder(tmp_path / "model")), logits(network))


@pytest.mark.parametrize("is_tied", [False, True])
def test_the_whole_state_comes_back_without_copies_of_shared_weights(
    shape: ModelShape, tmp_path: Path, is_tied: bool
) -> None:
    shape = shape.model_copy(update={"tie_word_embeddings": is_tied})
    one, other = build(shape, FULL, tmp_path, seed=1), build(shape, FULL, tmp_path, seed=2)
    state = {name: tensor.clone() for name, tensor in tuned_state(one).items()}
    assert sum(tensor.numel() for tensor in state.values()) == sum(p.numel() for p in one.parameters())
    assert "encoder.embed_tokens.weight" not in state
    assert ("lm_head.weight" in state) is not is_tied
    assert not torch.equal(logits(one), logits(other))
    load_tuned_state(other, state)
    assert torch.equal(logits(one), logits(other))
    assert other.encoder.embed_tokens.weight is other.shared.weight


def test_the_adapters_state_comes_back(shape: ModelShape, tmp_path: Path) -> None:
    one = build(shape, LORA, tmp_path, seed=1)
    other = build(shape, LORA, tmp_path, seed=1)
    load_tuned_state(other, {name: torch.zeros_like(tensor) for name, tensor in tuned_state(other).items()})
    assert not torch.equal(logits(one), logits(other))
    load_tuned_state(other, tuned_state(one))
    assert torch.equal(logits(one), logits(other))
    assert weights_file(one) == "adapter_model.safetensors"


def test_weights_of_another_model_are_refused_in_one_line(shape: ModelShape, tmp_path: Path) -> None:
    network = build(shape, FULL, tmp_path)
    before = logits(network)
    deeper = tuned_state(build(shape.model_copy(update={"num_layers": 3}), FULL, tmp_path))
    wider = tuned_state(build(shape.model_copy(update={"d_ff": 32}), FULL, tmp_path))
    fewer = dict(list(tuned_state(network).items())[1:])
    for state in (deeper, wider, fewer):
        with pytest.raises(ModelError, match="do not fit") as caught:
            load_tuned_state(network, state)
        assert "\n" not in str(caught.value)
    assert torch.equal(logits(network), before)


@pytest.mark.parametrize("is_tied", [False, True])
def test_a_folder_of_the_whole_model_loads_here_and_in_plain_transformers(
    shape: ModelShape, tmp_path: Path, is_tied: bool
) -> None:
    shape = shape.model_copy(update={"tie_word_embeddings": is_tied})
    network = build(shape, FULL, tmp_path)
    write(network, tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["tie_word_embeddings"] is is_tied
    expected = logits(network)
    loaded = load_model_folder(tmp_path / "model")
    assert not loaded.training
    assert torch.equal(logits(loaded), expected)
    plain = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model", dtype=torch.float32, attn_implementation="eager")
    assert torch.equal(logits(plain), expected)


def test_a_folder_of_an_adapter_loads_with_its_base(shape: ModelShape, tmp_path: Path) -> None:
    network = build(shape, LORA, tmp_path)
    write(network, tmp_path / "model")
    loaded = load_model_folder(tmp_path / "model")
    assert not loaded.training
    assert torch.equal(logits(loaded), logits(network))


def test_a_folder_without_a_model_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model there") as caught:
        load_model_folder(tmp_path)
    assert "\n" not in str(caught.value)


def test_parameters_are_counted_once(shape: ModelShape, tmp_path: Path) -> None:
    network = build(shape, FULL, tmp_path)
    total = sum(tensor.numel() for tensor in tuned_state(network).values())
    assert finetuned.count_parameters(network) == (total, total)
    wrapped = build(shape, LORA, tmp_path)
    of_adapter = sum(tensor.numel() for tensor in tuned_state(wrapped).values())
    assert finetuned.count_parameters(wrapped) == (of_adapter, total + of_adapter)
