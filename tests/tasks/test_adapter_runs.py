"""Every variant of an adapter through the entry points: trained, interrupted, continued, evaluated, merged, loaded."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from small_runs import StopAt, again, final_state, folder_of, run
from transformers import AutoModelForSeq2SeqLM

import recipe_exp
from recipe_exp.config.compose import compose
from recipe_exp.errors import ModelError, ResumeError
from recipe_exp.models.finetuned import load_model_folder
from recipe_exp.tasks import checks

ADAPTER = ("training.adapter.rank=4", "training.batch_size=8", "training.learning_rate=5e-3", "training.max_steps=5")
IDS = torch.tensor([[5, 9, 12, 1]])
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="the extra `quantized` is not installed"
)
VARIANTS = [
    *("rslora", "dora", "pissa", "lora_plus"),
    pytest.param("qlora", marks=needs_bitsandbytes),
]


@pytest.fixture
def small_run(small_run: list[str]) -> list[str]:
    """Even smaller: what is generated does not matter here."""
    return [*small_run, "evaluation.max_examples=4", "evaluation.max_generated_examples=1"]


def logits(network: Any) -> torch.Tensor:
    network.eval()
    with torch.no_grad():
        found: torch.Tensor = network(input_ids=IDS, labels=IDS).logits
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_interrupted_run_continues_bit_for_bit(small_run: list[str], tmp_path: Path, variant: str) -> None:
    overrides = [*small_run, f"training={variant}", *ADAPTER, "model.dropout=0.1"]
    whole = folder_of(run([*overrides, f"output_dir={tmp_path / 'whole'}"]))
    stopped = run(overrides, StopAt(3))
    assert stopped.status == "interrupted"
    resumed = run([*overrides, "resume=latest"])
    assert (resumed.folder, resumed.status) == (stopped.folder, "finished")
    assert final_state(folder_of(resumed)) == final_state(whole)
    assert len(final_state(whole)) == 2


@pytest.mark.parametrize("variant", ["rslora", "dora", "pissa", "lora_plus"])
def test_a_run_is_evaluated_merged_and_loaded_by_plain_peft(small_run: list[str], tmp_path: Path, variant: str) -> None:
    # Sixteen times as fast, B would grow beyond what fp32 computes to 1e-5.
    rate = 5e-3 if variant == "lora_plus" else 5e-2
    result = run([*small_run, f"training={variant}", *ADAPTER, f"training.learning_rate={rate}"])
    folder = folder_of(result)
    network = load_model_folder(folder / "model")
    expected = logits(network)
    base = AutoModelForSeq2SeqLM.from_pretrained(folder / "base", dtype=torch.float32)
    assert (logits(base) - expected).abs().max() > 1e-2
    peft = PeftModel.from_pretrained(base, folder / "model")
    torch.testing.assert_close(logits(peft), expected, rtol=1e-5, atol=1e-5)
    merged = AutoModelForSeq2SeqLM.from_pretrained(recipe_exp.merge(folder, tmp_path / "merged"))
    torch.testing.assert_close(logits(merged), expected, rtol=1e-5, atol=1e-5)
    evaluated = recipe_exp.evaluate(folder, output_dir=folder.parent.parent)
    assert evaluated.metrics["eval/loss"] == pytest.approx(result.metrics["eval/loss"], rel=1e-6)


def test_pissa_is_stored_as_a_plain_adapter_of_twice_the_rank(small_run: list[str]) -> None:
    folder = folder_of(run([*small_run, "training=pissa", *ADAPTER]))
    newest = sorted((folder / "checkpoints").iterdir())[-1]
    for place in (folder / "model", newest):
        config = json.loads((place / "adapter_config.json").read_text())
        assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (8, 32.0, False)
        assert config["init_lora_weights"] is True
        state = load_file(place / "adapter_model.safetensors")
        assert {min(tensor.shape) for tensor in state.values()} == {8}
    optimizer = load_file(newest / "optimizer.safetensors")
    assert {min(moment.shape) for name, moment in optimizer.items() if name.endswith("exp_avg")} == {4}


def test_lora_plus_learns_at_two_rates(small_run: list[str]) -> None:
    """From the same start, Adam's first step moves every entry of B by its own rate."""

    def first_step(*overrides: str) -> dict[str, torch.Tensor]:
        length = ("training.max_steps=1", "training.warmup_steps=0", "training/schedule=constant")
        result = run([*small_run, "training=lora", *ADAPTER, *length, "training.adapter.dropout=0.0", *overrides])
        return load_file(folder_of(result) / "model" / "adapter_model.safetensors")

    slow, fast = first_step(), first_step("training.adapter.learning_rate_ratio=4.0")
    for name, tensor in slow.items():
        if "lora_B" in name:
            moved = tensor.abs() > 1e-4
            assert moved.float().mean() > 0.9
            torch.testing.assert_close(fast[name][moved], 4.0 * tensor[moved])
            torch.testing.assert_close(tensor[moved].abs(), torch.full_like(tensor[moved], 5e-3), rtol=1e-2, atol=0)
        else:
            assert torch.equal(fast[name], tensor), "A has no gradient as long as B is zero"


# Another base of the same shape


def replace_base(folder: Path) -> None:
    path = folder / "base" / "model.safetensors"
    state = load_file(path)
    save_file({name: tensor + 0.01 for name, tensor in state.items()}, path, metadata={"format": "pt"})


@pytest.mark.parametrize("variant", ["lora", *VARIANTS])
def test_a_wrong_base_of_the_same_shape_is_refused_everywhere(
    small_run: list[str], tmp_path: Path, variant: str
) -> None:
    overrides = [*small_run, f"training={variant}", *ADAPTER]
    folder = folder_of(run(overrides, StopAt(2)))
    replace_base(folder)
    for use in (
        lambda: recipe_exp.load(folder),
        lambda: recipe_exp.evaluate(folder, output_dir=folder.parent.parent),
        lambda: recipe_exp.merge(folder, tmp_path / "merged"),
    ):
        with pytest.raises(ModelError, match=r"trained on other base weights than those of .*fingerprint") as caught:
            use()
        assert "\n" not in str(caught.value)
    with pytest.raises(ResumeError, match="base: "):
        run(again(folder))


# In 4 bits


@pytest.mark.long
@needs_bitsandbytes
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_qlora_learns_and_says_what_its_base_is_held_in(
    small_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], precision: str
) -> None:
    overrides = [*small_run, "training=qlora", *ADAPTER, f"training.precision={precision}", "training.max_steps=8"]
    result = run(overrides)
    losses = [
        json.loads(line)["metrics"].get("train/loss")
        for line in (folder_of(result) / "metrics.jsonl").read_text().splitlines()
    ]
    losses = [loss for loss in losses if loss is not None]
    assert losses[-1] < losses[0]
    capsys.readouterr()
    evaluated = recipe_exp.evaluate(folder_of(result), output_dir=folder_of(result).parent.parent)
    assert "note: the base is held in nf4, as the adapter was trained over it" in capsys.readouterr().err
    assert evaluated.metrics["eval/loss"] == pytest.approx(
        result.metrics["eval/loss"], rel=1e-6 if precision == "fp32" else 0.02
    )
    assert recipe_exp.load(folder_of(result)).generate(["Write a recipe for toast."], max_new_tokens=4)
    assert "held in nf4" in capsys.readouterr().err
    merged = AutoModelForSeq2SeqLM.from_pretrained(recipe_exp.merge(folder_of(result), tmp_path / "merged"))
    assert type(merged.encoder.block[0].layer[0].SelfAttention.q) is torch.nn.Linear


def test_a_missing_package_is_named_before_anything_is_loaded(
    small_run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "find_spec", lambda _: None)
    with pytest.raises(recipe_exp.RecipeExpError) as caught:
        checks.check(compose([*small_run, "training=qlora"]))
    assert str(caught.value) == (
        "training.adapter.quantization=nf4: needs bitsandbytes, which is not installed; pip install "
        "'recipe-exp[quantized]', or take training=lora"
    )
