from __future__ import annotations

import json
import os
import pickle
import random
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

from recipe_exp.errors import CheckpointError
from recipe_exp.training import checkpoint
from recipe_exp.training.checkpoint import (
    MANIFEST,
    OPTIMIZER,
    STATE,
    folder_name,
    is_sound,
    list_checkpoints,
    newest_sound,
    prune,
    read_checkpoint,
    remove_leftovers,
    step_of,
    verify,
    write_checkpoint,
)

Fork = Callable[[Callable[[], None]], int]
WEIGHTS = "model.safetensors"
FILES = (WEIGHTS, OPTIMIZER, STATE, "config.json", MANIFEST)


def tensors(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"a": torch.randn(7, 5, generator=generator), "b": torch.randn(3, generator=generator).bfloat16()}


def state_of(step: int) -> dict[str, Any]:
    return {"trainer": {"step": step}, "callbacks": {"Mine": {"note": "dégustation", "value": 0.1 + 0.2}}}


def describe(folder: Path) -> None:
    (folder / "config.json").write_text("{}\n", encoding="utf-8")


def write(folder: Path, step: int) -> Path:
    return write_checkpoint(
        folder,
        step,
        weights_file=WEIGHTS,
        weights=tensors(step),
        optimizer={f"{name}::exp_avg": tensor for name, tensor in tensors(step + 1000).items()},
        state=state_of(step),
        describe=describe,
    )


def assert_reads_back(path: Path, step: int) -> None:
    found = read_checkpoint(path, WEIGHTS)
    assert found.path == path
    assert found.state == state_of(step)
    for stored, expected in ((found.weights, tensors(step)), (found.optimizer, tensors(step + 1000))):
        assert [name.removesuffix("::exp_avg") for name in stored] == list(expected)
        for one, other in zip(stored.values(), expected.values(), strict=True):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)


def damage(file: Path, kind: str) -> None:
    match kind:
        case "truncated":
            file.write_bytes(file.read_bytes()[:-1])
        case "empty":
            file.write_bytes(b"")
        case "removed":
            file.unlink()
        case "extended":
            file.write_bytes(file.read_bytes() + b"\0")


def kill_after_lines(number: int) -> None:
    """Ends this process as SIGKILL does before its line of that number, in the module under test or in shutil."""
    left = number

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in (checkpoint.__file__, shutil.__file__):
            return None
        if event == "line":
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


def test_a_checkpoint_reads_back_as_it_was_written(checkpoints: Path) -> None:
    path = write(checkpoints, 12)
    assert path == checkpoints / "step-00000012"
    assert {file.name for file in path.iterdir()} == set(FILES)
    assert [file.name for file in checkpoints.iterdir()] == [path.name]
    assert_reads_back(path, 12)
    manifest = json.loads((path / MANIFEST).read_text())
    assert manifest["step"] == 12
    assert manifest["files"].keys() == set(FILES) - {MANIFEST}


def test_every_file_is_on_disk_before_the_manifest_and_that_before_the_name(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def record_fsync(descriptor: int) -> None:
        fsync(descriptor)
        events.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)

    def record_rename(self: Path, target: Path) -> Path:
        events.append(f"rename {self.name} {target.name}")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "rename", record_rename)
    write(checkpoints, 3)
    assert set(events[:4]) == set(FILES) - {MANIFEST}
    assert events[4:] == [
        MANIFEST,
        "step-00000003.partial",
        "rename step-00000003.partial step-00000003",
        "checkpoints",
    ]


def spread(num_lines: int) -> list[int]:
    """A seeded choice of places, and all of the last, where names change."""
    early = range(num_lines - 12)
    return sorted({*random.Random(num_lines).sample(early, min(40, len(early))), *range(num_lines - 12, num_lines)})


def count_lines(action: Callable[[], None]) -> int:
    count = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count
        if frame.f_code.co_filename not in (checkpoint.__file__, shutil.__file__):
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return count


def test_a_kill_anywhere_leaves_a_whole_checkpoint_or_none(checkpoints: Path, fork: Fork, tmp_path: Path) -> None:
    num_lines = count_lines(lambda: void(write(tmp_path / "counted", 2)))
    outcomes = []
    for number in spread(num_lines):
        shutil.rmtree(checkpoints, ignore_errors=True)
        write(checkpoints, 1)

        def child(number: int = number) -> None:
            kill_after_lines(number)
            write(checkpoints, 2)

        assert fork(child) == -signal.SIGKILL
        newest, complaints = newest_sound(checkpoints)
        assert newest is not None
        assert complaints == []
        outcomes.append(step_of(newest))
        assert_reads_back(newest, outcomes[-1])
        remove_leftovers(checkpoints)
        assert {path.name for path in checkpoints.iterdir()} == {
            folder_name(step) for step in range(1, outcomes[-1] + 1)
        }
        assert_reads_back(write(checkpoints, 2), 2)
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {1, 2}


def test_a_kill_while_old_checkpoints_go_leaves_no_half_of_one(checkpoints: Path, fork: Fork) -> None:
    def prepare() -> None:
        shutil.rmtree(checkpoints, ignore_errors=True)
        for step in (1, 2, 3):
            write(checkpoints, step)

    prepare()
    num_lines = count_lines(lambda: prune(checkpoints, {folder_name(3)}))
    for number in spread(num_lines):
        prepare()

        def child(number: int = number) -> None:
            kill_after_lines(number)
            prune(checkpoints, {folder_name(3)})

        assert fork(child) == -signal.SIGKILL
        for path in list_checkpoints(checkpoints):
            verify(path)
        assert newest_sound(checkpoints) == (checkpoints / folder_name(3), [])


@pytest.mark.parametrize("kind", ["truncated", "empty", "removed", "extended"])
@pytest.mark.parametrize("name", FILES)
def test_damage_to_any_file_is_noticed(checkpoints: Path, name: str, kind: str) -> None:
    path = write(checkpoints, 5)
    damage(path / name, kind)
    assert not is_sound(path)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path, WEIGHTS)
    assert str(path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_no_flipped_bit_reaches_the_reader(checkpoints: Path, name: str) -> None:
    path = write(checkpoints, 5)
    original = (path / name).read_bytes()
    rng = random.Random(3)
    for position in rng.sample(range(len(original)), min(len(original), 60)):
        flipped = bytearray(original)
        flipped[position] ^= 1 << rng.randrange(8)
        (path / name).write_bytes(flipped)
        if name != MANIFEST:
            assert not is_sound(path)
        elif is_sound(path):
            # What the manifest says besides names and checksums is for people.
            assert_reads_back(path, 5)


def test_weights_of_another_kind_are_missed(checkpoints: Path) -> None:
    path = write(checkpoints, 5)
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors: missing"):
        read_checkpoint(path, "adapter_model.safetensors")


def test_a_run_falls_back_to_the_newest_whole_checkpoint(checkpoints: Path) -> None:
    assert newest_sound(checkpoints) == (None, [])
    paths = [write(checkpoints, step) for step in (90, 100, 110, 10_000_000)]
    assert list_checkpoints(checkpoints) == paths, "in order of the step"
    assert newest_sound(checkpoints) == (paths[3], [])
    damage(paths[3] / MANIFEST, "removed")
    damage(paths[2] / WEIGHTS, "truncated")
    newest, complaints = newest_sound(checkpoints)
    assert newest == paths[1]
    assert [line.split(":")[0] for line in complaints] == [str(paths[3] / MANIFEST), str(paths[2] / WEIGHTS)]
    for path in paths[:2]:
        damage(path / STATE, "empty")
    newest, complaints = newest_sound(checkpoints)
    assert newest is None
    assert len(complaints) == 4


def test_a_damaged_checkpoint_is_written_again_and_a_whole_one_is_not(checkpoints: Path) -> None:
    path = write(checkpoints, 5)
    before = (path / WEIGHTS).stat().st_ino
    assert write(checkpoints, 5) == path
    assert (path / WEIGHTS).stat().st_ino == before
    damage(path / WEIGHTS, "truncated")
    assert write(checkpoints, 5) == path
    assert_reads_back(path, 5)
    assert [file.name for file in checkpoints.iterdir()] == [path.name]


def test_pruning_keeps_what_is_named_and_leftovers_go(checkpoints: Path) -> None:
    for step in range(1, 6):
        write(checkpoints, step)
    (checkpoints / "notes").mkdir()
    prune(checkpoints, {folder_name(2), folder_name(5), folder_name(99)})
    assert sorted(path.name for path in checkpoints.iterdir()) == ["notes", folder_name(2), folder_name(5)]
    partial = checkpoints / f"{folder_name(6)}.partial"
    shutil.copytree(checkpoints / folder_name(5), partial)
    assert list_checkpoints(checkpoints) == [checkpoints / folder_name(2), checkpoints / folder_name(5)]
    assert remove_leftovers(checkpoints) == [partial]
    assert not partial.exists()
    assert remove_leftovers(checkpoints) == remove_leftovers(checkpoints / "missing") == []


def test_a_disk_that_fills_up_leaves_the_checkpoint_before(checkpoints: Path, fork: Fork) -> None:
    write(checkpoints, 1)
    sizes = {file.name: file.stat().st_size for file in (checkpoints / folder_name(1)).iterdir()}
    assert min(sizes.values()) < max(sizes.values())
    for limit in (0, 1, *(size - 1 for size in sizes.values())):

        def child(limit: int = limit) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            with pytest.raises(CheckpointError, match="earlier checkpoints are intact") as caught:
                write(checkpoints, 2)
            assert "\n" not in str(caught.value)

        assert fork(child) == 0
        assert [path.name for path in checkpoints.iterdir()] == [folder_name(1)]
        assert_reads_back(checkpoints / folder_name(1), 1)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(CheckpointError, match="cannot be written"):
        write(tmp_path / "file", 1)


def test_nothing_in_a_checkpoint_is_executed(checkpoints: Path, tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "executed",))

    payload = pickle.dumps(Malicious())
    for name in (WEIGHTS, OPTIMIZER, STATE, MANIFEST):
        path = write(checkpoints, 5)
        (path / name).write_bytes(payload)
        # Whoever can write the files can write their checksums too.
        if name != MANIFEST:
            manifest = json.loads((path / MANIFEST).read_text())
            manifest["files"][name]["sha256"] = checkpoint._sha256(path / name)
            (path / MANIFEST).write_text(json.dumps(manifest))
        with pytest.raises(CheckpointError):
            read_checkpoint(path, WEIGHTS)
        shutil.rmtree(path)
    assert not (tmp_path / "executed").exists()
    pickle.loads(payload)
    assert (tmp_path / "executed").exists(), "the payload works where it is unpickled"


def void(_value: object) -> None:
    """Drops a value."""
