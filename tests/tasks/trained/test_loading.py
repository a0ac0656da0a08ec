from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import recipe_exp
from recipe_exp.config.compose import compose
from recipe_exp.errors import CheckpointError, DataError, ModelError
from recipe_exp.tasks.train import TrainResult, train
from recipe_exp.tasks.trained.loading import open_run, prepare_output, write_output

LORA = ("training=lora", "training.adapter.rank=4", "training.batch_size=16")


class Malicious:
    """What executes something as soon as it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def run(overrides: Sequence[str]) -> TrainResult:
    return train(compose([*overrides, "training.max_steps=4"]))


def refuse_pickles(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a pickle was to be loaded")

    for owner, name in ((torch, "load"), (torch.serialization, "load"), (pickle, "load"), (pickle, "loads")):
        monkeypatch.setattr(owner, name, refuse)
    monkeypatch.setattr(pickle, "Unpickler", refuse)


@pytest.mark.parametrize("more", [(), LORA], ids=["full", "lora"])
def test_nothing_that_loads_weights_reaches_a_pickle(
    small_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    first = run([*small_run, *more])
    assert first.folder is not None
    refuse_pickles(monkeypatch)
    record = json.loads((first.folder / "run.json").read_text())
    (first.folder / "run.json").write_text(json.dumps({**record, "status": "interrupted"}))
    assert run([*small_run, *more, "resume=latest"]).folder == first.folder
    assert recipe_exp.load(first.folder).generate(["Write a recipe for toast."], max_new_tokens=4)
    assert recipe_exp.evaluate(first.folder, output_dir=first.folder.parent.parent).metrics
    if more:
        assert recipe_exp.merge(first.folder, tmp_path / "merged").is_dir()
    else:
        shutil.copytree(first.folder / "model", tmp_path / "base")
        assert run([*small_run, f"model.name={tmp_path / 'base'}", "model.pretrained=true"]).status == "finished"


@pytest.mark.parametrize("more", [(), LORA], ids=["full", "lora"])
def test_a_base_in_a_pickle_is_refused_with_the_remedy(
    small_run: list[str], tmp_path: Path, more: tuple[str, ...]
) -> None:
    result = run(small_run)
    assert result.folder is not None
    base, marker = tmp_path / "base", tmp_path / "executed"
    shutil.copytree(result.folder / "model", base)
    (base / "manifest.json").unlink()
    (base / "model.safetensors").unlink()
    (base / "pytorch_model.bin").write_bytes(pickle.dumps(Malicious(marker)))
    with pytest.raises(ModelError) as caught:
        run([*small_run, *more, f"model.name={base}", "model.pretrained=true"])
    line = str(caught.value)
    assert "pytorch_model.bin is a pickle" in line
    assert f"save_pretrained({str(base)!r})" in line
    assert "\n" not in line
    with pytest.raises(ModelError, match="is a pickle"):
        recipe_exp.load(base)
    assert not marker.exists()


def test_an_index_that_lists_a_pickle_is_refused(small_run: list[str], tmp_path: Path) -> None:
    result = run(small_run)
    assert result.folder is not None
    base, marker = tmp_path / "base", tmp_path / "executed"
    shutil.copytree(result.folder / "model", base)
    (base / "manifest.json").unlink()
    (base / "model.safetensors").unlink()
    (base / "part.bin").write_bytes(pickle.dumps(Malicious(marker)))
    index = base / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"shared.weight": "part.bin"}}))
    for content in (None, "{", '{"weight_map": 3}'):
        if content is not None:
            index.write_text(content)
        with pytest.raises(ModelError, match=r"lists part\.bin|copy the model again") as caught:
            recipe_exp.load(base)
        assert "\n" not in str(caught.value)
    assert not marker.exists()


def test_an_adapter_in_a_pickle_is_refused_with_the_remedy(small_run: list[str], tmp_path: Path) -> None:
    result = run([*small_run, *LORA])
    assert result.folder is not None
    model, marker = result.folder / "model", tmp_path / "executed"
    (model / "manifest.json").unlink()
    (model / "adapter_model.safetensors").unlink()
    (model / "adapter_model.bin").write_bytes(pickle.dumps(Malicious(marker)))
    with pytest.raises(ModelError, match=r"adapter_model\.bin is a pickle"):
        recipe_exp.load(result.folder)
    assert not marker.exists()


def test_a_copied_run_takes_the_base_that_was_copied_with_it(small_run: list[str], tmp_path: Path) -> None:
    result = run([*small_run, *LORA])
    assert result.folder is not None
    copy = tmp_path / "elsewhere" / result.folder.name
    shutil.copytree(result.folder, copy)
    (result.folder / "base" / "model.safetensors").write_bytes(b"another")
    assert recipe_exp.load(copy).generate(["Write a recipe for toast."], max_new_tokens=4)


def test_a_damaged_model_is_refused(small_run: list[str]) -> None:
    result = run(small_run)
    assert result.folder is not None
    weights = result.folder / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 4
    weights.unlink()
    weights.write_bytes(content)
    output_dir = result.folder.parent.parent
    for use in (recipe_exp.load, lambda folder: recipe_exp.evaluate(folder, output_dir=output_dir)):
        with pytest.raises(CheckpointError) as caught:
            use(result.folder)
        assert str(caught.value) == f"{weights}: damaged; put the file back from a copy, or train again"
    with pytest.raises(CheckpointError, match="damaged"):
        recipe_exp.load(weights.parent)


def test_a_run_without_a_model_yet_gives_its_newest_whole_checkpoint(
    small_run: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    result = run([*small_run, "evaluation.every_n_steps=2"])
    assert result.folder is not None
    output_dir = result.folder.parent.parent
    shutil.rmtree(result.folder / "model")
    newest = sorted((result.folder / "checkpoints").iterdir())[-1]
    assert open_run(output_dir, "latest").model == newest
    assert capsys.readouterr().err == ""
    before = newest.with_name("step-00000003")
    shutil.copytree(newest, before)
    manifest = json.loads((before / "manifest.json").read_text())
    (before / "manifest.json").write_text(json.dumps({**manifest, "step": 3}))
    (newest / "state.json").unlink()
    assert open_run(output_dir, "latest").model == before
    assert capsys.readouterr().err == f"warning: {newest / 'state.json'}: missing; falling back to {before.name}\n"
    (before / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"state\.json: missing; no model and no whole checkpoint; continue it"):
        open_run(output_dir, "latest")


def test_an_output_is_tried_before_it_is_computed_and_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "folder" / "result.json"
    prepare_output(target)
    assert list(target.parent.iterdir()) == []
    write_output(target, "{}")
    prepare_output(target)
    assert target.read_text() == "{}"
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"task\.output=.*: cannot be written \(.*\); choose another file"):
        prepare_output(tmp_path / "file" / "result.json")
