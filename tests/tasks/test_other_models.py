"""Encoder-decoders beside T5 by their name: ByT5 from the first step to a certified model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import recipe_exp as package
from recipe_exp.config.compose import compose
from recipe_exp.config.model import ModelShape
from recipe_exp.models import load
from recipe_exp.tasks.train import train

DIMENSIONS = {
    "vocab_size": 384,
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 24,
    "num_layers": 2,
    "num_decoder_layers": 1,
    "num_heads": 2,
}
TEXT = "# Toast\n- {butter}, 1 ½ slices\n"


@pytest.fixture
def byt5(tmp_path: Path) -> list[str]:
    """The overrides that name a folder as ByT5's are published: a T5 with a tokenizer that only its class tells of."""
    folder = tmp_path / "byt5"
    torch.manual_seed(0)
    load.export_model(load.from_shape(ModelShape(**DIMENSIONS), dtype=torch.float32), folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ByT5Tokenizer"}))
    shape = [f"model.shape.{name}={value}" for name, value in DIMENSIONS.items()]
    return [f"model.name={folder}", "model.pretrained=true", *shape, "data.max_target_tokens=400"]


def without_model(overrides: Sequence[str]) -> list[str]:
    return [item for item in overrides if not item.startswith("model.")]


def test_byt5_is_tuned_evaluated_asked_and_published(small_run: list[str], byt5: list[str], tmp_path: Path) -> None:
    lora = ["training=lora", "training.adapter.rank=2", "training.batch_size=16"]
    for more in ([], lora):
        result = train(compose([*without_model(small_run), *byt5, *more, "training.max_steps=4"]))
        assert result.status == "finished"
        assert result.folder is not None
        assert result.metrics["eval/loss"] > 0
        assert package.evaluate(result.folder, output_dir=tmp_path / "outputs").metrics["eval/loss"] > 0
        assert len(package.load(result.folder).generate(["Toast"], max_new_tokens=3)) == 1
        folder = package.export(result.folder, output_dir=tmp_path / "outputs")
        found = json.loads((folder / "certificate.json").read_text())
        assert found["verdict"] == "passed"
        assert found["tokenizer"]["survive"] == {"line breaks": True, "fractions": True, "braces": True}
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer(TEXT)["input_ids"] == [*(byte + 3 for byte in TEXT.encode()), 1]
        assert tokenizer.decode(tokenizer(TEXT)["input_ids"], skip_special_tokens=True) == TEXT
        assert AutoModelForSeq2SeqLM.from_pretrained(folder).config.vocab_size == 384
