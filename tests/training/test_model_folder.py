from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch

from recipe_exp.errors import CheckpointError
from recipe_exp.training.checkpoint import OPTIMIZER, STATE, write_checkpoint
from recipe_exp.training.manifest import MANIFEST
from recipe_exp.training.model_folder import is_published, publish_model, remove_leftovers, verify_model

WEIGHTS = "model.safetensors"


def describe(folder: Path) -> None:
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")


def write(folder: Path, step: int) -> Path:
    tensors = {"a": torch.full((3,), float(step))}
    return write_checkpoint(
        folder, step, weights_file=WEIGHTS, weights=tensors, optimizer=tensors, state={}, describe=describe
    )


@pytest.fixture
def source(checkpoints: Path) -> Path:
    return write(checkpoints, 1)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tmp_path / "model"


def test_a_published_model_takes_no_room_of_its_own(source: Path, model: Path) -> None:
    content = (source / WEIGHTS).read_bytes()
    publish_model(source, model)
    assert {file.name for file in model.iterdir()} == {WEIGHTS, "config.json", "tokenizer.json", MANIFEST}
    assert (model / WEIGHTS).samefile(source / WEIGHTS)
    assert not (model / "config.json").samefile(source / "config.json"), "people edit it"
    shutil.rmtree(source)
    assert (model / WEIGHTS).read_bytes() == content


def test_a_model_is_copied_where_the_disk_has_no_links(
    source: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    publish_model(source, model)
    assert (model / WEIGHTS).read_bytes() == (source / WEIGHTS).read_bytes()


def test_only_what_the_checkpoint_lists_is_published(source: Path, model: Path) -> None:
    (source / "pytorch_model.bin").write_bytes(b"somebody put this here")
    publish_model(source, model)
    assert not (model / "pytorch_model.bin").exists()
    (source / MANIFEST).unlink()
    with pytest.raises(CheckpointError, match=r"manifest\.json: missing"):
        publish_model(source, model)


def test_a_model_is_known_by_its_checkpoint_without_reading_the_weights(
    checkpoints: Path, source: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write(checkpoints, 2)
    assert not is_published(source, model)
    publish_model(source, model)
    monkeypatch.setattr(hashlib, "file_digest", None)
    assert is_published(source, model)
    assert not is_published(other, model)
    assert not is_published(checkpoints / "step-00000003", model)


@pytest.mark.parametrize("kind", ["flipped", "truncated", "removed", "manifest"])
def test_damaged_weights_of_a_model_are_noticed(source: Path, model: Path, kind: str) -> None:
    publish_model(source, model)
    verify_model(model)
    (model / "config.json").write_text('{"edited": true}', encoding="utf-8")
    verify_model(model)
    content = (model / WEIGHTS).read_bytes()
    (model / WEIGHTS).unlink()
    if kind == "manifest":
        (model / WEIGHTS).write_bytes(content)
        (model / MANIFEST).write_bytes(b"{")
    elif kind != "removed":
        (model / WEIGHTS).write_bytes(content[:-1] if kind == "truncated" else content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"damaged|missing"):
        verify_model(model)


def test_a_model_from_elsewhere_has_nothing_to_be_checked_against(tmp_path: Path) -> None:
    verify_model(tmp_path)
    (tmp_path / MANIFEST).write_text(json.dumps({"format": 1, "step": 1, "files": {"../x": {}}}))
    with pytest.raises(CheckpointError):
        verify_model(tmp_path)


def test_a_disk_that_refuses_leaves_the_model_before(
    checkpoints: Path, source: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_model(source, model)

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copy2", refuse)
    with pytest.raises(OSError, match="No space"):
        publish_model(write(checkpoints, 2), model)
    assert is_published(source, model)
    verify_model(model)
    remove_leftovers(model)
    assert sorted(path.name for path in model.parent.iterdir()) == ["checkpoints", "model"]


def test_a_reader_finds_a_whole_model_while_it_is_replaced(checkpoints: Path, model: Path) -> None:
    sources = [write(checkpoints, step) for step in (1, 2)]
    names = {WEIGHTS, "config.json", "tokenizer.json", MANIFEST}
    publish_model(sources[0], model)
    is_over = threading.Event()

    def replace_all_the_time() -> None:
        for number in range(100):
            publish_model(sources[number % 2], model)
        is_over.set()

    writer = threading.Thread(target=replace_all_the_time)
    writer.start()
    num_found, last_seen, longest_absence = 0, time.monotonic(), 0.0
    while not is_over.is_set():
        try:
            found = set(os.listdir(model))  # noqa: PTH208
        except FileNotFoundError:
            longest_absence = max(longest_absence, time.monotonic() - last_seen)
            continue
        last_seen = time.monotonic()
        # A listing may race with the removal of the model that was replaced, but never with writing.
        num_found += found == names
    writer.join()
    assert num_found > 0
    assert longest_absence < 1.0
    assert sorted(path.name for path in model.parent.iterdir()) == ["checkpoints", "model"]


def test_the_state_of_training_is_no_part_of_a_model(source: Path, model: Path) -> None:
    publish_model(source, model)
    assert not {OPTIMIZER, STATE} & {file.name for file in model.iterdir()}
    assert set(json.loads((model / MANIFEST).read_text())["files"]) == {WEIGHTS}
