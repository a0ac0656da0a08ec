"""Encoder-decoders beside T5 by their name: from the first step to a certified model."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    MT5Config,
    MT5ForConditionalGeneration,
)

import recipe_exp as package
from recipe_exp.__main__ import main
from recipe_exp.config.compose import compose
from recipe_exp.config.model import ModelShape
from recipe_exp.data.loader import join_texts
from recipe_exp.data.sample import sample_recipes
from recipe_exp.data.tokens.vocabulary import train_unigram
from recipe_exp.errors import ModelError
from recipe_exp.models import load
from recipe_exp.models.finetuned import load_model_folder
from recipe_exp.models.sequence_loss import SequenceLoss
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


def bart_tokenizer() -> Tokenizer:
    """A tokenizer of byte pairs as BART's: its control pieces first, then bytes and what they merge to."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    control = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=control,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    recipes = (render_markdown(recipe) for recipe in itertools.islice(sample_recipes(), 200))
    tokenizer.train_from_iterator(recipes, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


BART_DIMENSIONS = {**DIMENSIONS, "vocab_size": 500, "d_kv": 8}


@pytest.fixture
def bart(tmp_path: Path) -> list[str]:
    """The overrides that name a folder with a tiny BART, longer texts than whose positions are refused."""
    folder = tmp_path / "bart"
    torch.manual_seed(0)
    sizes = {"encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = BartConfig(
        vocab_size=500, d_model=16, encoder_layers=2, decoder_layers=1, max_position_embeddings=600, **sizes
    )
    BartForConditionalGeneration(config).save_pretrained(folder)
    bart_tokenizer().save(str(folder / "tokenizer.json"))
    return named(folder, BART_DIMENSIONS, "model.shape.tie_word_embeddings=true")


def without_model(overrides: Sequence[str]) -> list[str]:
    return [item for item in overrides if not item.startswith("model.")]


def check_run(result: TrainResult, outputs: Path, *, ctranslate2: bool = False) -> Path:
    """Evaluates, asks and publishes what a run has left behind; returns the published folder."""
    assert result.status == "finished"
    assert result.folder is not None
    assert result.metrics["eval/loss"] > 0
    assert package.evaluate(result.folder, output_dir=outputs).metrics["eval/loss"] > 0
    assert len(package.load(result.folder).generate(["Toast"], max_new_tokens=3)) == 1
    folder = package.export(result.folder, output_dir=outputs, ctranslate2=ctranslate2)
    found = json.loads((folder / "certificate.json").read_text())
    assert found["verdict"] == "passed"
    assert found["tokenizer"]["survive"] == {"line breaks": True, "fractions": True, "braces": True}
    return folder


@pytest.mark.long
def test_byt5_is_tuned_evaluated_asked_and_published(small_run: list[str], byt5: list[str], tmp_path: Path) -> None:
    for more in ((), LORA):
        result = train(compose([*without_model(small_run), *byt5, *more, "training.max_steps=4"]))
        folder = check_run(result, tmp_path / "outputs")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer(TEXT)["input_ids"] == [*(byte + 3 for byte in TEXT.encode()), 1]
        assert tokenizer.decode(tokenizer(TEXT)["input_ids"], skip_special_tokens=True) == TEXT
        assert AutoModelForSeq2SeqLM.from_pretrained(folder).config.vocab_size == 384


@pytest.mark.long
def test_mt5_is_tuned_evaluated_asked_and_published(small_run: list[str], mt5: list[str], tmp_path: Path) -> None:
    result = train(compose([*without_model(small_run), *mt5, "training.max_steps=4"]))
    folder = check_run(result, tmp_path / "outputs", ctranslate2=find_spec("ctranslate2") is not None)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(f"{TEXT}🍞")["input_ids"]
    assert max(ids) > 2**16
    assert tokenizer.decode(ids, skip_special_tokens=True) == "# Toast\n- {butter}, 1 1/2 slices\n🍞"
    published = AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert isinstance(published, MT5ForConditionalGeneration)
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False
    assert not torch.equal(published.lm_head.weight, published.shared.weight)


@pytest.mark.long
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


def test_bart_is_tuned_evaluated_asked_and_published(small_run: list[str], bart: list[str], tmp_path: Path) -> None:
    result = train(compose([*without_model(small_run), *bart, "training.max_steps=4"]))
    folder = check_run(result, tmp_path / "outputs")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(f"{TEXT}</s><pad>")["input_ids"]
    assert (ids[0], ids[-1]) == (0, 2)
    assert not {0, 1, 2, 3} & {*ids[1:-1]}
    assert tokenizer.decode(ids, skip_special_tokens=True) == f"{TEXT}</s><pad>"
    published = AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert isinstance(published, BartForConditionalGeneration)
    assert published.lm_head.weight is published.model.shared.weight
    assert published.generation_config.decoder_start_token_id == 2
    assert result.folder is not None
    with pytest.raises(ModelError, match="converter does not read a BartForConditionalGeneration"):
        package.export(result.folder, tmp_path / "converted", output_dir=tmp_path / "outputs", ctranslate2=True)


@pytest.mark.parametrize(
    ("targets", "layers"),
    [
        ("attention_qv", {"q_proj", "v_proj"}),
        ("[fc1]", {"fc1"}),
        ("all_linear", {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"}),
    ],
)
def test_an_adapter_on_bart_is_tuned_and_merged_to_the_same_logits(
    small_run: list[str], bart: list[str], tmp_path: Path, targets: str, layers: set[str]
) -> None:
    chosen = f"training.adapter.targets={targets}"
    result = train(compose([*without_model(small_run), *bart, *LORA, chosen, "training.max_steps=4"]))
    assert result.folder is not None
    with_adapter = load_model_folder(result.folder / "model")
    found = {name.split(".")[-4] for name, _ in with_adapter.named_parameters() if ".lora_A." in name}
    assert found == layers
    assert main(["task=merge", f"task.run={result.folder}", f"output_dir={tmp_path / 'outputs'}"]) == 0
    merged = AutoModelForSeq2SeqLM.from_pretrained(result.folder / "merged").eval()
    ids = torch.tensor([[0, 300, 400, 2]])
    with torch.no_grad():
        expected = with_adapter(input_ids=ids, labels=ids).logits
        torch.testing.assert_close(merged(input_ids=ids, labels=ids).logits, expected)


def test_the_loss_of_bart_is_that_of_transformers(bart: list[str]) -> None:
    network = load.load_pretrained(bart[0].partition("=")[2], dtype=torch.float32).eval()
    source = torch.tensor([[0, 40, 50, 60, 2], [0, 70, 2, 1, 1]])
    labels = torch.tensor([[0, 80, 90, 2], [0, 99, 2, -100]])
    mask = (source != 1).long()
    theirs = network(input_ids=source, attention_mask=mask, labels=labels).loss * (labels != -100).sum()
    ours = SequenceLoss(network)(join_texts([[0, 40, 50, 60, 2], [0, 70, 2]], [[0, 80, 90, 2], [0, 99, 2]]))
    torch.testing.assert_close(ours, theirs)
    ours.backward()
    gradient = network.model.shared.weight.grad.clone()
    network.zero_grad()
    theirs.backward()
    torch.testing.assert_close(network.model.shared.weight.grad, gradient)


def test_a_bart_stored_without_its_head_is_read_whole(bart: list[str]) -> None:
    folder = Path(bart[0].partition("=")[2])
    network = BartForConditionalGeneration.from_pretrained(folder).eval()
    network.model.save_pretrained(folder)
    ids = torch.tensor([[0, 40, 50, 2]])
    again = load.load_pretrained(str(folder), dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=ids, labels=ids).logits, network(input_ids=ids, labels=ids).logits)


@pytest.mark.parametrize("key", ["data.max_source_tokens", "data.max_target_tokens", "evaluation.max_new_tokens"])
def test_texts_longer_than_barts_positions_are_refused_in_one_line(
    small_run: list[str], bart: list[str], key: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*without_model(small_run), *bart, f"{key}=601"]) == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {key}=601: ")
    assert line.endswith(f"set {key}=600 or less")


def test_a_folder_of_bart_is_asked_and_writes_no_longer_than_its_positions(bart: list[str]) -> None:
    writer = package.load(bart[0].partition("=")[2])
    assert len(writer.generate(["Toast", "Soup with a longer title"], max_new_tokens=3)) == 2
    with pytest.raises(ModelError, match=r"max_new_tokens=601: the network has 600 positions"):
        writer.generate(["Toast"], max_new_tokens=601)


def test_a_bias_on_barts_logits_is_refused(bart: list[str]) -> None:
    folder = Path(bart[0].partition("=")[2])
    network = BartForConditionalGeneration.from_pretrained(folder)
    network.final_logits_bias[0, 7] = 1.0
    network.save_pretrained(folder)
    with pytest.raises(ModelError, match="has a bias on its logits"):
        load.load_pretrained(str(folder), dtype=torch.float32)


@pytest.mark.parametrize(("key", "value"), [("decoder_ffn_dim", 32), ("eos_token_id", 3), ("encoder_layers", 0)])
def test_a_bart_unlike_those_that_are_published_is_refused(bart: list[str], key: str, value: int) -> None:
    folder = Path(bart[0].partition("=")[2])
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {key: value}))
    with pytest.raises(ModelError, match=rf"{key}={value}: no Bart that can be tuned here"):
        load.load_pretrained(str(folder), dtype=torch.float32)


def test_the_plan_of_bart_is_called_a_guess(small_run: list[str], bart: list[str], tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    assert main([*without_model(small_run), *bart, "task=plan", f"task.output={file}"]) == 0
    assert any("a guess" in line for line in json.loads(file.read_text())["warnings"])
