from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import T5ForConditionalGeneration

from recipe_exp.config.training import LoraConfig
from recipe_exp.errors import ModelError
from recipe_exp.models import adapters, load, pissa
from recipe_exp.models.base_weights import BaseFacts, write_facts
from recipe_exp.models.sequence_loss import plain_network

LORA = LoraConfig(rank=3, alpha=6.0, dropout=0.0, init="pissa")


@pytest.fixture
def base(tmp_path: Path, network: T5ForConditionalGeneration) -> Path:
    load.export_model(network, tmp_path / "base")
    return tmp_path / "base"


def adapted(base: Path) -> Any:
    return adapters.add_lora(load.load_pretrained(str(base), dtype=torch.float32), LORA, base=str(base))


@pytest.mark.parametrize("size", [(16, 12), (12, 16), (40, 24)])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_the_factors_are_the_principal_components(size: tuple[int, int], scale: float) -> None:
    torch.manual_seed(0)
    weight = torch.randn(size) @ torch.diag(torch.linspace(3.0, 0.1, size[1]))
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    best = left[:, :4] @ torch.diag(values[:4]) @ right[:4]
    first, second = pissa.principal_factors(weight, 4, scale)
    assert (first.shape, second.shape) == ((4, size[1]), (size[0], 4))
    torch.testing.assert_close(scale * second @ first, best, rtol=1e-3, atol=1e-3)
    # Each component is split evenly between its two vectors.
    torch.testing.assert_close(first.norm(dim=1), second.norm(dim=0))


def test_the_random_state_is_left_alone_and_the_factors_are_repeatable() -> None:
    weight = torch.randn(20, 20)
    before = torch.get_rng_state()
    one, other = pissa.principal_factors(weight, 4, 1.0), pissa.principal_factors(weight, 4, 1.0)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, one, other))


def test_the_base_keeps_the_residual(base: Path) -> None:
    original = load.load_pretrained(str(base), dtype=torch.float32).encoder.block[0].layer[0].SelfAttention.q.weight
    layer = plain_network(adapted(base)).encoder.block[0].layer[0].SelfAttention.q
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.testing.assert_close(layer.base_layer.weight + 2.0 * b @ a, original, rtol=1e-6, atol=1e-6)
    left = torch.linalg.svdvals(layer.base_layer.weight)
    torch.testing.assert_close(left[0], torch.linalg.svdvals(original)[3], rtol=1e-3, atol=1e-3)


def test_the_portable_form_is_of_twice_the_rank_and_comes_back() -> None:
    start = pissa.PissaStart({"q": (torch.randn(3, 5), torch.randn(4, 3))})
    state = {"q.lora_A.weight": torch.randn(3, 5), "q.lora_B.weight": torch.randn(4, 3)}
    portable = pissa.to_portable(state, start)
    a, b = portable["q.lora_A.weight"], portable["q.lora_B.weight"]
    first, second = start.factors["q"]
    assert (a.shape, b.shape) == ((6, 5), (4, 6))
    learnt = state["q.lora_B.weight"] @ state["q.lora_A.weight"] - second @ first
    torch.testing.assert_close(b @ a, learnt)
    own, again = pissa.from_portable(portable)
    assert all(torch.equal(own[name], state[name]) for name in state)
    assert all(map(torch.equal, again.factors["q"], start.factors["q"]))


def test_a_start_that_was_computed_elsewhere_gives_the_base_of_then(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine's decomposition may round differently; what is stored counts."""
    exact = pissa.principal_factors

    def rounded(weight: torch.Tensor, rank: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        first, second = exact(weight, rank, scale)
        return first * (1 + 1e-6), second.bfloat16().float()

    monkeypatch.setattr(pissa, "principal_factors", rounded)
    there = adapted(base)
    monkeypatch.undo()
    here = adapted(base)
    weights = dict(there.named_parameters())
    assert not all(torch.equal(parameter, weights[name]) for name, parameter in here.named_parameters())
    adapters.load_adapter_state(here, adapters.adapter_state(there))
    assert all(torch.equal(parameter, weights[name]) for name, parameter in here.named_parameters())
    state, again = adapters.adapter_state(there), adapters.adapter_state(here)
    assert all(torch.equal(state[name], again[name]) for name in state)


def test_weights_that_are_not_of_twice_the_rank_are_refused_in_one_line(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    adapters.save_adapter(adapted(base), folder)
    write_facts(folder, BaseFacts(None, "none", "pissa"))
    path = folder / adapters.ADAPTER_WEIGHTS
    whole = load_file(path)
    for damaged in ({name: tensor[:4] for name, tensor in whole.items()}, dict(list(whole.items())[4:])):
        save_file({name: tensor.contiguous() for name, tensor in damaged.items()}, path, metadata={"format": "pt"})
        with pytest.raises(ModelError, match="do not fit this model") as caught:
            adapters.load_with_adapter(folder, dtype=torch.float32)
        assert "\n" not in str(caught.value)
