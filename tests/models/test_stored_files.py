"""What is taken from a model's folder only after it was looked at; the long list of attacks is in `tests/faults`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from recipe_exp.__main__ import main
from recipe_exp.config.model import ModelShape
from recipe_exp.errors import ModelError
from recipe_exp.models.families import FAMILIES
from recipe_exp.models.stored_files import (
    SHAPE_NAMES,
    check_adapter_folder,
    check_model_folder,
    check_tokenizer_folder,
    stored_shape,
)

RUNS = Path(__file__).parents[1] / "fixtures" / "schema_1" / "runs"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A whole T5."""
    return Path(shutil.copytree(next(RUNS.glob("*-full")) / "model", tmp_path / "model"))


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A whole LoRA adapter."""
    return Path(shutil.copytree(next(RUNS.glob("*-lora")) / "model", tmp_path / "adapter"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def shape_of(model: Path) -> ModelShape:
    return ModelShape(**stored_shape(json.loads((model / "config.json").read_text())))


def test_whole_folders_pass(model: Path, adapter: Path) -> None:
    check_model_folder(model)
    family = check_model_folder(model, shape_of(model))
    assert family is FAMILIES["t5"]
    check_tokenizer_folder(model, family)
    check_adapter_folder(adapter)


@pytest.mark.parametrize(
    ("model_type", "said"),
    [
        ("mbart", "the loss, the memory plan and the adapters' targets are unknown"),
        ("llama", "of others the memory plan"),
        (None, "model_type=absent: no T5 that can be tuned here"),
        ([], "no T5 that can be tuned here"),
    ],
)
def test_another_architecture_is_refused_with_what_is_unknown_of_it(
    model: Path, capfd: pytest.CaptureFixture[str], model_type: Any, said: str
) -> None:
    edit(model / "config.json", model_type=model_type)
    assert main([f"model.name={model}", "model.pretrained=true"]) == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert said in line


def test_the_command_that_a_refused_pickle_is_told_writes_safetensors(
    model: Path, adapter: Path, tmp_path: Path
) -> None:
    for folder, name, pickle in (
        (model, "model.safetensors", "pytorch_model.bin"),
        (adapter, "adapter_model.safetensors", "adapter_model.bin"),
    ):
        expected = load_file(folder / name)
        (folder / name).unlink()
        torch.save(expected, folder / pickle)
        check = check_model_folder if folder == model else check_adapter_folder
        with pytest.raises(ModelError, match=f"{pickle} is a pickle") as caught:
            check(folder)
        (command,) = re.findall(r"(python -c \".*\")", str(caught.value))
        # What executes something is not read by it either.
        torch.save({"a": Hostile(tmp_path / "executed")}, folder / "hostile.bin")
        assert run(command.replace(pickle, "hostile.bin") if folder == adapter else "false") != 0
        assert not (tmp_path / "executed").exists()
        assert run(command) == 0
        written = load_file(folder / name)
        assert {*written} >= {*expected}
        assert all(torch.equal(written[key], tensor) for key, tensor in expected.items())
        check(folder)


class Hostile:
    """What executes something as soon as it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def run(command: str) -> int:
    command = command.replace("python ", f"{sys.executable} ", 1)
    return subprocess.run(command, shell=True, capture_output=True, check=False, timeout=120).returncode


def test_every_dimension_that_differs_is_named(model: Path) -> None:
    shape = shape_of(model).model_copy(update={"d_model": 512, "num_heads": 8})
    with pytest.raises(
        ModelError, match=r"d_model \d+ instead of 512, num_heads \d+ instead of 8; choose the matching"
    ):
        check_model_folder(model, shape)


@pytest.mark.parametrize("name", SHAPE_NAMES)
@pytest.mark.parametrize("value", [0, -1, 10**12, "x", 1.5, True, [1]])
def test_dimension_that_is_no_count_is_named(model: Path, name: str, value: object) -> None:
    edit(model / "config.json", **{name: value})
    with pytest.raises(ModelError, match=rf"config.json: {name}=.*: no T5 that can be tuned here"):
        check_model_folder(model)


def test_config_that_tells_of_other_layers_than_the_weights_hold_is_refused(model: Path) -> None:
    edit(model / "config.json", num_layers=7)
    with pytest.raises(ModelError, match="tells of 7 encoder blocks and the weights hold"):
        check_model_folder(model)


@pytest.mark.parametrize("kept", [0, 4, 8, 200, -1])
def test_weights_that_are_cut_off_are_known_by_their_header(model: Path, kept: int) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"model.safetensors: cut off, or no safetensors file"):
        check_model_folder(model)


def test_shards_lie_beside_their_index(model: Path) -> None:
    (model / "model.safetensors").rename(model / "model-00001-of-00001.safetensors")
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"shared.weight": "model-00001-of-00001.safetensors"}}))
    check_model_folder(model)
    for name in ("../model.safetensors", "/etc/passwd", "a/b.safetensors", "x.bin", ".."):
        index.write_text(json.dumps({"weight_map": {"shared.weight": name}}))
        with pytest.raises(ModelError, match="which is no safetensors file beside it"):
            check_model_folder(model)


def test_pickle_is_named_with_what_to_do(model: Path, adapter: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model.bin is a pickle, which may execute anything"):
        check_model_folder(model)
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"adapter_model.bin is a pickle, which may execute anything"):
        check_adapter_folder(adapter)


@pytest.mark.parametrize(
    "change",
    [
        {"peft_type": "PROMPT_TUNING"},
        {"r": 0},
        {"r": "8"},
        {"lora_alpha": None},
        {"target_modules": "(a+)+$"},
        {"target_modules": [1]},
        {"base_model_name_or_path": 5},
        {"revision": 5},
        {"init_lora_weights": "eva"},
        {"megatron_config": {"a": 1}},
    ],
    ids=str,
)
def test_setting_of_an_adapter_that_is_more_than_lora_is_named(adapter: Path, change: dict[str, Any]) -> None:
    edit(adapter / "adapter_config.json", **change)
    (name,) = change
    with pytest.raises(ModelError, match=rf"adapter_config.json: {name}=.*: no plain LoRA adapter"):
        check_adapter_folder(adapter)


def test_pipe_holds_nothing_up(model: Path) -> None:
    (model / "config.json").unlink()
    os.mkfifo(model / "config.json")
    with pytest.raises(ModelError, match=r"config.json: cannot be read .is no regular file."):
        check_model_folder(model)


def test_tokenizer_of_another_kind_is_refused(model: Path) -> None:
    edit(model / "tokenizer.json", model={"type": "BPE"})
    with pytest.raises(ModelError, match="is no Unigram tokenizer"):
        check_tokenizer_folder(model, FAMILIES["t5"])
    (model / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="holds no tokenizer"):
        check_tokenizer_folder(model, FAMILIES["t5"])


def test_looking_loads_no_pytorch() -> None:
    code = "import sys, recipe_exp.models.stored_files\nprint({'torch', 'transformers', 'numpy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
