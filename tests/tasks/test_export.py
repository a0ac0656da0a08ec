"""A run's model, published: what plain transformers makes of it, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import recipe_exp as package
from recipe_exp.__main__ import main
from recipe_exp.config.compose import compose
from recipe_exp.errors import ExportError, ModelError
from recipe_exp.models import load
from recipe_exp.models.finetuned import load_model_folder
from recipe_exp.tasks.train import train
from recipe_exp.tasks.trained import publishing

SMALL = (
    *("data.max_examples=250", "data.validation_fraction=0.15", "data.test_fraction=0.05"),
    *("model.shape.d_model=32", "model.shape.d_ff=48", "model.shape.d_kv=8", "model.shape.vocab_size=700"),
    *("training.batch_size=16", "training.max_steps=8", "training.warmup_steps=2", "training.log_every_n_steps=3"),
    *("training.checkpoint_every_n_steps=4", "evaluation.every_n_steps=4", "evaluation.max_examples=12"),
    *("evaluation.max_generated_examples=3", "evaluation.max_new_tokens=12", "tracking=journal_only"),
    *("hardware=cpu", "hardware.num_threads=1", "hardware.micro_batch_tokens=2048"),
)
LORA = ("training=lora", "training.adapter.rank=4", "training.batch_size=16", "training.learning_rate=0.02")
TEXT = "# Toast\n\n## Ingredients\n- 1 ½ slices bread\n- {butter}\n\n## Instructions\n1. Toast it."


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> dict[str, Path]:
    """The folders of two runs, one of whole weights and one of an adapter."""
    place = tmp_path_factory.mktemp("runs")
    found = {}
    for name, more in (("full", ()), ("lora", LORA)):
        places = [f"output_dir={place / 'outputs'}", f"data.cache_dir={cache_dir}", f"run_name={name}"]
        result = train(compose([*SMALL, *places, *more]))
        assert result.folder is not None
        found[name] = result.folder
    return found


def verdict(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "certificate.json").read_text(encoding="utf-8"))
    return content


def errors_of(capfd: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]


def test_an_adapter_is_exported_as_a_plain_model_that_is_certified(
    runs: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    command = [
        "task=export",
        f"task.run={runs['lora']}",
        f"task.output={folder}",
        f"output_dir={runs['lora'].parents[1]}",
    ]
    assert main([*command, "task.license=cc-by-4.0"]) == 0
    assert "certified: logits within" in capfd.readouterr().out
    found = verdict(folder)
    assert (found["verdict"], found["failures"], found["dtype"]) == ("passed", [], "fp32")
    assert found["prompts"] | {"digest": ""} == {"from": "of the run's validation split", "number": 20, "digest": ""}
    again = found["reloaded"]
    assert again["max_error"] <= 1e-5 * max(1.0, again["largest_logit"])
    assert again["num_identical"] == again["num_generations"] == 20
    assert found["tokenizer"]["survive"] == {"line breaks": True, "fractions": True, "braces": True}
    assert "config.json" in found["files"]
    assert "model.safetensors" in found["files"]
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False
    # What the certificate says, seen from here.
    adapter, plain = load_model_folder(runs["lora"] / "model"), AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    assert not hasattr(plain, "peft_config")
    ids = torch.tensor([AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"]])
    with torch.no_grad():
        expected, ours = (network(input_ids=ids, labels=ids).logits for network in (adapter, plain))
    assert (ours - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.decode(ids[0], skip_special_tokens=True) == TEXT.replace("1 ½", "1 1/2")
    assert main(command) == 2
    assert "exists and is not empty" in errors_of(capfd)[0]


def test_the_card_says_what_the_model_is(runs: dict[str, Path], tmp_path: Path) -> None:
    folder = package.export(runs["full"], tmp_path / "model")
    text = (folder / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(text.split("---")[1])
    assert front["license"] == "unknown"
    assert "base_model" not in front
    record = json.loads((runs["full"] / "run.json").read_text())
    assert record["data"]["data_fingerprint"] in text
    assert f"{record['data']['num_examples']['train']:,} train" in text
    assert "| `training.max_steps` | 8 |" in text
    assert f"| `eval/loss` | {record['best']['value']:.4g} |" in text
    assert "**Passed.**" in text
    assert "Trained from random weights." in text
    assert record["machinery"]["device_name"] in text.replace("\\", "")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    done = subprocess.run(
        [sys.executable, "-c", code.replace("max_new_tokens=12", "max_new_tokens=2")],
        cwd=folder, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_no_path_no_name_of_the_machine_and_no_secret_is_published(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = "Zq7kCanary8xWv"
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", f"{canary}!/9")
    run = tmp_path / "run"
    shutil.copytree(runs["lora"], run)
    record = json.loads((run / "run.json").read_text())
    record |= {"run_name": f"soup hf_{canary}aB3dE5fG7h", "host": canary, "user": canary, "command": [canary]}
    record["provenance"]["cpu"] = f"one of {canary}!/9"
    record["provenance"]["git"] = {"commit": "abc", "dirty": True, "patch": canary, "untracked": [canary]}
    (run / "run.json").write_text(json.dumps(record))
    folder = package.export(run, tmp_path / "elsewhere", output_dir=runs["lora"].parents[1])
    for path in folder.rglob("*"):
        assert path.suffix in (".md", ".json", ".safetensors"), path.name
        content = path.read_bytes()
        for trace in (canary, str(runs["lora"].parents[1]), str(tmp_path), f"{Path.home()}/"):
            assert trace.encode() not in content, f"{path.name} holds {trace}"
    assert "# soup \\*\\*\\*" in (folder / "README.md").read_text()


def test_bf16_is_measured_and_claims_no_identity(runs: dict[str, Path], tmp_path: Path) -> None:
    folder = package.merge(runs["lora"], tmp_path / "merged", dtype="bf16")
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}
    found = verdict(folder)
    assert found["verdict"] == "passed"
    assert "differences are reported" in found["claim"]
    # What was written is read back exactly; what it is of the trained model is only told.
    assert found["reloaded"]["max_error"] <= 1e-5 * max(1.0, found["reloaded"]["largest_logit"])
    reported = found["against_fp32"]
    assert reported["max_error"] > found["reloaded"]["max_error"]
    assert 0 < reported["mean_kl"] <= reported["max_kl"] < 1
    assert 0 <= reported["token_agreement"] <= 1
    assert "No identity is claimed." in (folder / "README.md").read_text()


Break = Callable[[Path], None]


def with_other_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["lm_head.weight"] * 1.001
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def with_no_numbers(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][7] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def with_an_uncured_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    spec = json.loads(path.read_text(encoding="utf-8"))
    spec["decoder"] = spec["decoder"]["decoders"][0]
    path.write_text(json.dumps(spec), encoding="utf-8")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (with_other_weights, "plain transformers gives other logits"),
        (with_no_numbers, "plain transformers gives other logits (by nan"),
        (with_an_uncured_tokenizer, "decodes"),
    ],
)
def test_what_is_not_the_trained_model_is_not_published(
    runs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    harm: Break,
    said: str,
) -> None:
    write = publishing.write_model

    def write_and_harm(source: Path, folder: Path, **settings: Any) -> None:
        write(source, folder, **settings)
        harm(folder)

    monkeypatch.setattr(publishing, "write_model", write_and_harm)
    folder = tmp_path / "model"
    output_dir = runs["full"].parents[1]
    assert main(["task=export", f"task.run={runs['full']}", f"task.output={folder}", f"output_dir={output_dir}"]) == 1
    (line,) = errors_of(capfd)
    assert said in line
    assert f"what was written is in {folder}.uncertified" in line
    assert not folder.exists()
    kept = folder.with_name("model.uncertified")
    assert verdict(kept)["verdict"] == "failed"
    assert "**Failed.**" in (kept / "README.md").read_text()
    monkeypatch.undo()
    assert package.export(runs["full"], folder) == folder
    assert not kept.exists()


def test_an_adapter_on_another_base_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs["lora"], run)
    weights = load_file(run / "base" / "model.safetensors")
    weights["lm_head.weight"][0] += 0.001
    save_file(weights, run / "base" / "model.safetensors", metadata={"format": "pt"})
    for publish in (package.export, package.merge):
        with pytest.raises(ModelError, match="trained on other base weights"):
            publish(run, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_only_an_adapter_is_merged(runs: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match="plain already, and task=export publishes it"):
        package.merge(runs["full"])


def test_prompts_are_built_in_where_the_data_is_gone(runs: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs["full"], run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"] |= {"format": "jsonl", "path": str(tmp_path / "gone.jsonl"), "cache_dir": str(tmp_path / "cache")}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    folder = package.export(run, tmp_path / "model")
    assert verdict(folder)["prompts"]["from"] == "built-in ones, since the run's data cannot be read here"
    assert "gone.jsonl" not in (folder / "README.md").read_text()


@pytest.mark.long
def test_how_it_was_evaluated_is_compared_too(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs["full"], run)
    record = json.loads((run / "run.json").read_text())
    record["machinery"]["precision"] = "bf16"
    (run / "run.json").write_text(json.dumps(record))
    found = verdict(package.export(run, tmp_path / "model"))
    assert found["reloaded"]["num_identical"] == 20
    assert found["as_evaluated"]["max_error"] > found["reloaded"]["max_error"]
    assert verdict(package.export(runs["full"], tmp_path / "other"))["as_evaluated"] == "it was evaluated in fp32"


def test_it_is_converted_for_ctranslate2_and_certified(runs: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2")
    folder = package.export(runs["lora"], tmp_path / "model", ctranslate2=True)
    found = verdict(folder)["ctranslate2"]
    assert found["max_log_probability_error"] <= found["tolerance"]
    assert found["num_identical"] == found["num_generations"] == 20
    assert (folder / "ctranslate2" / "model.bin").is_file()
    assert "ctranslate2/model.bin" in verdict(folder)["files"]
    assert {path.stat().st_mode & 0o044 for path in folder.rglob("*") if path.is_file()} == {0o044}
    assert "CTranslate2" in (folder / "README.md").read_text()


def test_a_missing_package_is_told_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from recipe_exp.tasks import checks

    monkeypatch.setattr(checks, "find_spec", lambda _: None)
    monkeypatch.setattr(load, "load_pretrained", None)
    assert main(["task=export", "task.ctranslate2=true", f"output_dir={tmp_path}"]) == 2
    assert errors_of(capfd) == [
        "error: task.ctranslate2=true: the package is not installed; pip install 'recipe-exp[ctranslate2]'"
    ]


def test_a_published_folder_writes_as_the_run_does(runs: dict[str, Path], tmp_path: Path) -> None:
    folder = package.export(runs["lora"], tmp_path / "model")
    prompt = "title=Toast; ingredients=bread, butter"
    own, published = package.load(runs["lora"]), package.load(folder)
    assert (published.template, published.max_new_tokens) == (own.template, 12)
    assert published.generate([prompt]) == own.generate([prompt])
    (folder / "recipe_exp.json").write_text("{")
    with pytest.raises(ModelError, match=r"recipe_exp\.json: damaged"):
        package.load(folder)


def test_an_export_that_fails_is_of_its_own_kind() -> None:
    assert issubclass(ExportError, ModelError)
    assert ExportError.exit_code == 1
