"""Encoder-decoders beside T5 by their name: from the first step to a certified model."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, MT5Config, MT5ForConditionalGeneration

import recipe_exp as package
from recipe_exp.__main__ import main
from recipe_exp.config.compose import compose
from recipe_exp.config.model import ModelShape
from recipe_exp.data.sample import sample_recipes
from recipe_exp.data.vocabulary import train_unigram
from recipe_exp.models import load
from recipe_exp.models.finetuned import load_model_folder
from recipe_exp.recipes import render_markdown
from recipe_exp.tasks.train import TrainResult, train

DIMENSIONS = {
    "vocab_size": 384,
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 24,
    "num_layers": 2,
    "num_decoder_layers": 1,
    "num_heads": 2,
}
LORA = ("training=lora", "training.adapter.rank=2", "training.batch_size=16")
TEXT = "# Toast\n- {butter}, 1 ½ slices\n"
WIDE_VOCABULARY = 70_000


def named(folder: Path, dimensions: dict[str, int], *more: str) -> list[str]:
    shape = [f"model.shape.{name}={value}" for name, value in dimensions.items()]
    return [f"model.name={folder}", "model.pretrained=true", *shape, *more]


@pytest.fixture
def byt5(tmp_path: Path) -> list[str]:
    """The overrides that name a folder as ByT5's are published: a T5 with a tokenizer that only its class tells of."""
    folder = tmp_path / "byt5"
    torch.manual_seed(0)
    load.export_model(load.from_shape(ModelShape(**DIMENSIONS), dtype=torch.float32), folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ByT5Tokenizer"}))
    return named(folder, DIMENSIONS, "data.max_target_tokens=400")


def mt5_tokenizer() -> Tokenizer:
    """A Unigram tokenizer as mT5's: every byte, pieces, more of them than 16 bits tell apart, and mT5's sentinels."""
    recipes = (render_markdown(recipe) for recipe in itertools.islice(sample_recipes(), 200))
    spec = json.loads(train_unigram(recipes, 700).to_str())
    vocabulary = spec["model"]["vocab"]
    control, pieces = vocabulary[:3], vocabulary[3:-100]
    of_bytes = [[f"<0x{byte:02X}>", 0.0] for byte in range(256)]
    sentinels = [[f"▁<extra_id_{number}>", 0.0] for number in reversed(range(100))]
    rare = [[f"語{number}", -30.0] for number in range(WIDE_VOCABULARY - 3 - 256 - len(pieces) - 100)]
    # The common pieces come last, so that what is learnt has ids beyond 16 bits.
    spec["model"]["vocab"] = [*control, *of_bytes, *rare, *pieces, *sentinels]
    spec["added_tokens"] = spec["added_tokens"][:3]
    return Tokenizer.from_str(json.dumps(spec))


@pytest.fixture
def mt5(tmp_path: Path) -> list[str]:
    """The overrides that name a folder with a tiny mT5, whose head is not its embedding."""
    folder = tmp_path / "mt5"
    dimensions = {**DIMENSIONS, "vocab_size": WIDE_VOCABULARY + 12, "d_model": 8}
    torch.manual_seed(0)
    network = MT5ForConditionalGeneration(MT5Config(**dimensions))
    network.lm_head.weight = torch.nn.Parameter(0.1 * torch.randn_like(network.lm_head.weight))
    network.save_pretrained(folder)
    mt5_tokenizer().save(str(folder / "tokenizer.json"))
    return named(folder, dimensions)


def without_model(overrides: Sequence[str]) -> list[str]:
    return [item for item in overrides if not item.startswith("model.")]


def check_run(result: TrainResult, outputs: Path) -> Path:
    """Evaluates, asks and publishes what a run has left behind; returns the published folder."""
    assert result.status == "finished"
    assert result.folder is not None
    assert result.metrics["eval/loss"] > 0
    assert package.evaluate(result.folder, output_dir=outputs).metrics["eval/loss"] > 0
    assert len(package.load(result.folder).generate(["Toast"], max_new_tokens=3)) == 1
    folder = package.export(result.folder, output_dir=outputs)
    found = json.loads((folder / "certificate.json").read_text())
    assert found["verdict"] == "passed"
    assert found["tokenizer"]["survive"] == {"line breaks": True, "fractions": True, "braces": True}
    return folder


def test_byt5_is_tuned_evaluated_asked_and_published(small_run: list[str], byt5: list[str], tmp_path: Path) -> None:
    for more in ((), LORA):
        result = train(compose([*without_model(small_run), *byt5, *more, "training.max_steps=4"]))
        folder = check_run(result, tmp_path / "outputs")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer(TEXT)["input_ids"] == [*(byte + 3 for byte in TEXT.encode()), 1]
        assert tokenizer.decode(tokenizer(TEXT)["input_ids"], skip_special_tokens=True) == TEXT
        assert AutoModelForSeq2SeqLM.from_pretrained(folder).config.vocab_size == 384


def test_mt5_is_tuned_evaluated_asked_and_published(small_run: list[str], mt5: list[str], tmp_path: Path) -> None:
    result = train(compose([*without_model(small_run), *mt5, "training.max_steps=4"]))
    folder = check_run(result, tmp_path / "outputs")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(f"{TEXT}🍞")["input_ids"]
    assert max(ids) > 2**16
    assert tokenizer.decode(ids, skip_special_tokens=True) == "# Toast\n- {butter}, 1 1/2 slices\n🍞"
    published = AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert isinstance(published, MT5ForConditionalGeneration)
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False
    assert not torch.equal(published.lm_head.weight, published.shared.weight)


def test_an_adapter_on_mt5_is_tuned_and_merged_to_the_same_logits(
    small_run: list[str], mt5: list[str], tmp_path: Path
) -> None:
    result = train(compose([*without_model(small_run), *mt5, *LORA, "training.max_steps=4"]))
    assert result.folder is not None
    assert result.metrics["eval/loss"] > 0
    assert main(["task=merge", f"task.run={result.folder}", f"output_dir={tmp_path / 'outputs'}"]) == 0
    with_adapter = load_model_folder(result.folder / "model")
    merged = AutoModelForSeq2SeqLM.from_pretrained(result.folder / "merged").eval()
    ids = torch.tensor([[300, 69_000, 69_500, 1]])
    with torch.no_grad():
        expected = with_adapter(input_ids=ids, labels=ids).logits
        torch.testing.assert_close(merged(input_ids=ids, labels=ids).logits, expected)


def test_the_plan_tells_what_is_unknown_of_mt5(
    small_run: list[str], mt5: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plan.json"
    assert main([*without_model(small_run), *mt5, "task=plan", f"task.output={file}"]) == 0
    assert "never measured" in " ".join(capsys.readouterr().out.split())
    plan = json.loads(file.read_text())
    assert any(line.startswith("mT5's network is T5's") for line in plan["warnings"])
    folder = Path(mt5[0].partition("=")[2])
    network = load.load_pretrained(str(folder), dtype=torch.float32)
    assert plan["num_parameters"] == sum(parameter.numel() for parameter in network.parameters())
