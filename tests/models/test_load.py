from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM, T5ForConditionalGeneration

from recipe_exp.config.model import ModelConfig, ModelShape
from recipe_exp.config.training import LoraConfig
from recipe_exp.errors import ModelError
from recipe_exp.models import load
from recipe_exp.models.adapters import add_lora
from recipe_exp.models.finetuned import count_parameters

CONF = Path(__file__).parents[2] / "conf" / "model"
IDS = torch.tensor([[7, 8, 9, 1, 0], [3, 4, 1, 0, 0]])
# As the published checkpoints hold them, the head and the embedding counted apart.
PUBLISHED = {
    "flan_t5_small": 76_961_152,
    "flan_t5_base": 247_577_856,
    "flan_t5_large": 783_150_080,
    "flan_t5_xl": 2_849_757_184,
    "flan_t5_xxl": 11_135_332_352,
}


def flan(name: str) -> ModelShape:
    return ModelShape.model_validate(yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8"))["shape"])


def on_meta(shape: ModelShape) -> T5ForConditionalGeneration:
    with torch.device("meta"):
        return load.from_shape(shape, dtype=torch.bfloat16)


def logits(network: T5ForConditionalGeneration) -> torch.Tensor:
    network.eval()
    with torch.no_grad():
        output: torch.Tensor = network(input_ids=IDS, attention_mask=(IDS != 0).long(), labels=IDS).logits
    return output


def config_of(folder: Path, shape: ModelShape, **settings: object) -> ModelConfig:
    return ModelConfig.model_validate({"name": str(folder), "shape": shape, **settings})


@pytest.mark.parametrize("name", PUBLISHED)
def test_flan_shapes_have_the_published_number_of_parameters(name: str) -> None:
    network = on_meta(flan(name))
    assert count_parameters(network) == (PUBLISHED[name], PUBLISHED[name])
    assert not load.has_tied_embeddings(network)
    assert network.config.scale_decoder_outputs is False


def test_xxl_with_the_default_adapter_trains_18_874_368_parameters() -> None:
    network = add_lora(on_meta(flan("flan_t5_xxl")), LoraConfig(), base="google/flan-t5-xxl")
    assert count_parameters(network) == (18_874_368, 11_135_332_352 + 18_874_368)


@pytest.mark.parametrize("is_tied", [False, True])
def test_an_exported_model_gives_equal_logits_in_plain_transformers(
    tmp_path: Path, shape: ModelShape, is_tied: bool
) -> None:
    network = load.from_shape(shape.model_copy(update={"tie_word_embeddings": is_tied}), dtype=torch.float32)
    assert load.has_tied_embeddings(network) is is_tied
    load.export_model(network, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is is_tied
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) is not is_tied
    expected = logits(network)
    plain = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager")
    assert torch.equal(logits(plain), expected)
    reloaded = load.load_pretrained(str(tmp_path), dtype=torch.float32)
    assert torch.equal(logits(reloaded), expected)
    assert load.has_tied_embeddings(reloaded) is is_tied


def test_an_export_that_would_load_to_other_logits_is_refused(
    tmp_path: Path, network: T5ForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_zeros(folder: Path) -> None:
        state = {name: torch.zeros_like(tensor) for name, tensor in network.state_dict().items()}
        del state["encoder.embed_tokens.weight"], state["decoder.embed_tokens.weight"]
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(network, "save_pretrained", write_zeros)
    with pytest.raises(ModelError, match="other logits"):
        load.export_model(network, tmp_path)


def test_random_weights_are_a_function_of_the_seed(shape: ModelShape) -> None:
    def build(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return logits(load.from_shape(shape, dtype=torch.float32))

    assert torch.equal(build(3), build(3))
    assert not torch.equal(build(3), build(4))


@pytest.mark.parametrize(("is_tied", "tolerance"), [(False, 0.3), (True, 0.8)])
def test_the_first_loss_is_close_to_that_of_guessing(shape: ModelShape, is_tied: bool, tolerance: float) -> None:
    torch.manual_seed(1)
    wide = shape.model_copy(update={"d_model": 64, "vocab_size": 500, "tie_word_embeddings": is_tied})
    network = load.from_shape(wide, dtype=torch.float32).eval()
    ids, labels = torch.randint(3, 500, (8, 40)), torch.randint(3, 500, (8, 40))
    with torch.no_grad():
        loss = float(network(input_ids=ids, labels=labels).loss)
    # Logits of variance 1 give ln(vocabulary) + 1/2 in expectation; a tied head favours the token before.
    assert loss == pytest.approx(math.log(500) + 0.5, abs=tolerance)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_dropout_reaches_every_layer(tmp_path: Path, shape: ModelShape, attention: str) -> None:
    load.export_model(load.from_shape(shape, dtype=torch.float32), tmp_path)
    for probability in (0.0, 0.25):
        network = load.build_model(
            config_of(tmp_path, shape, dropout=probability), dtype=torch.float32, attention=attention
        )
        assert network.training
        found = [m.p for m in network.modules() if isinstance(m, torch.nn.Dropout)]
        found += [m.dropout for m in network.modules() if isinstance(getattr(m, "dropout", None), float)]
        num_attention_layers = shape.num_layers + 2 * shape.num_decoder_layers
        assert len(found) > num_attention_layers
        assert set(found) == {probability}
        assert network.config.dropout_rate == probability
        runs = [network(input_ids=IDS, labels=IDS).logits for _ in range(2)]
        assert torch.equal(*runs) is (probability == 0.0)


def test_without_a_dropout_setting_the_model_keeps_its_own(tmp_path: Path, shape: ModelShape) -> None:
    load.export_model(load.from_shape(shape, dtype=torch.float32), tmp_path)
    network = load.build_model(config_of(tmp_path, shape), dtype=torch.float32, attention="eager")
    assert {m.p for m in network.modules() if isinstance(m, torch.nn.Dropout)} == {0.1}


def test_attention_kernels_agree(tmp_path: Path, network: T5ForConditionalGeneration) -> None:
    load.export_model(network, tmp_path)
    sdpa = load.load_pretrained(str(tmp_path), dtype=torch.float32, attention="sdpa")
    assert sdpa.config._attn_implementation == "sdpa"
    torch.testing.assert_close(logits(sdpa), logits(network), rtol=1e-5, atol=1e-5)


def test_gradient_checkpointing_gives_the_same_gradients(tmp_path: Path, shape: ModelShape) -> None:
    load.export_model(load.from_shape(shape, dtype=torch.float32), tmp_path)

    def gradients(gradient_checkpointing: bool) -> list[torch.Tensor]:
        config = config_of(tmp_path, shape, dropout=0.0, gradient_checkpointing=gradient_checkpointing)
        network = load.build_model(config, dtype=torch.float32, attention="eager")
        assert network.is_activation_checkpointing is gradient_checkpointing
        network(input_ids=IDS, labels=IDS).loss.backward()
        return [parameter.grad for parameter in network.parameters() if parameter.grad is not None]

    plain, recomputed = gradients(False), gradients(True)
    assert plain
    torch.testing.assert_close(recomputed, plain)


def test_weights_come_in_the_precision_asked_for(tmp_path: Path, network: T5ForConditionalGeneration) -> None:
    load.export_model(network, tmp_path)
    for dtype in (torch.bfloat16, torch.float32):
        loaded = load.load_pretrained(str(tmp_path), dtype=dtype)
        assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}


def test_a_checkpoint_of_another_shape_is_refused_in_one_line(tmp_path: Path, shape: ModelShape) -> None:
    load.export_model(load.from_shape(shape, dtype=torch.float32), tmp_path)
    wanted = shape.model_copy(update={"d_ff": 32, "num_layers": 4})
    with pytest.raises(ModelError) as caught:
        load.build_model(config_of(tmp_path, wanted), dtype=torch.float32, attention="eager")
    line = str(caught.value)
    assert "d_ff 24 instead of 32" in line
    assert "num_layers 2 instead of 4" in line
    assert "model.shape" in line
    assert "\n" not in line


def without_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.block.0.layer.0.SelfAttention.q.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def with_a_narrow_head(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["lm_head.weight"][:50]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def cut_off(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def with_half_a_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"d_model": ', encoding="utf-8")


@pytest.mark.parametrize("damage", [without_a_weight, with_a_narrow_head, cut_off, without_weights, with_half_a_config])
def test_a_damaged_folder_is_refused_in_one_line(
    tmp_path: Path, network: T5ForConditionalGeneration, damage: object
) -> None:
    load.export_model(network, tmp_path)
    assert callable(damage)
    damage(tmp_path)
    with pytest.raises(ModelError) as caught:
        load.load_pretrained(str(tmp_path), dtype=torch.float32)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_out_of_reach_is_refused_in_one_line_with_the_remedy(shape: ModelShape) -> None:
    config = ModelConfig(name="nobody/no-such-model", shape=shape)
    with pytest.raises(ModelError) as caught:
        load.build_model(config, dtype=torch.float32, attention="eager")
    line = str(caught.value)
    assert line.startswith("model.name=nobody/no-such-model: ")
    assert "model.name=FOLDER" in line
    assert "\n" not in line
