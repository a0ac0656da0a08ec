from __future__ import annotations

import hashlib
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
from recipe_exp.training import checkpoint, manifest
from recipe_exp.training.checkpoint import (
    OPTIMIZER,
    STATE,
    find_newest,
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
from recipe_exp.training.manifest import MANIFEST

Fork = Callable[[Callable[[], None]], int]
WEIGHTS = "model.safetensors"
TRACED = (checkpoint.__file__, manifest.__file__, shutil.__file__)
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
        if frame.f_code.co_filename not in TRACED:
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
    content = json.loads((path / MANIFEST).read_text())
    assert content["step"] == 12
    assert content["files"].keys() == set(FILES) - {MANIFEST}


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
    assert events[0] == checkpoints.parent.name
    assert set(events[1:5]) == set(FILES) - {MANIFEST}
    assert events[5:] == [
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
        if frame.f_code.co_filename not in TRACED:
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
    write(tmp_path / "before", 1)
    shutil.copytree(tmp_path / "before", tmp_path / "counted")
    num_lines = count_lines(lambda: void(write(tmp_path / "counted", 2)))
    outcomes = []
    for number in spread(num_lines):
        shutil.rmtree(checkpoints, ignore_errors=True)
        shutil.copytree(tmp_path / "before", checkpoints)

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


def test_a_kill_while_old_checkpoints_go_leaves_no_half_of_one(checkpoints: Path, fork: Fork, tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write(tmp_path / "before", step)

    def prepare() -> None:
        shutil.rmtree(checkpoints, ignore_errors=True)
        shutil.copytree(tmp_path / "before", checkpoints)

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
        assert not is_sound(path)
        with pytest.raises(CheckpointError):
            read_checkpoint(path, WEIGHTS)


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


@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_checkpoint_takes_the_place_of_another_of_its_step(checkpoints: Path, is_damaged: bool) -> None:
    """A run that was set back comes by its steps again with other weights."""
    path = write_checkpoint(
        checkpoints, 5, weights_file=WEIGHTS, weights=tensors(1), optimizer=tensors(2), state=state_of(4)
    )
    if is_damaged:
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


def test_a_strict_resume_refuses_what_is_passed_over_otherwise(checkpoints: Path) -> None:
    lines: list[str] = []
    assert find_newest(checkpoints, WEIGHTS, is_strict=True, report=lines.append) is None
    for step in (1, 2, 3):
        write(checkpoints, step)
    newest = find_newest(checkpoints, WEIGHTS, is_strict=True, report=lines.append)
    assert newest is not None
    assert step_of(newest.path) == 3
    damage(checkpoints / folder_name(3) / OPTIMIZER, "removed")
    damage(checkpoints / folder_name(2) / STATE, "empty")
    with pytest.raises(CheckpointError) as caught:
        find_newest(checkpoints, WEIGHTS, is_strict=True, report=lines.append)
    assert str(caught.value) == (
        f"resume_strict=true: {checkpoints / folder_name(3) / OPTIMIZER}: missing; put the file back from a copy, or "
        "continue from step-00000001 with resume_strict=false"
    )
    assert lines == []
    newest = find_newest(checkpoints, WEIGHTS, is_strict=False, report=lines.append)
    assert newest is not None
    assert step_of(newest.path) == 1
    assert [line.replace(str(checkpoints), "") for line in lines] == [
        f"warning: /step-00000003/{OPTIMIZER}: missing; falling back to step-00000001",
        f"warning: /step-00000002/{STATE}: damaged (0 bytes instead of 107); falling back to step-00000001",
    ]
    damage(checkpoints / folder_name(1) / MANIFEST, "empty")
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors: missing, and no other checkpoint is whole;"):
        find_newest(checkpoints, WEIGHTS, is_strict=False, report=lines.append)


def test_resuming_hashes_every_file_once_and_copies_none(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch, fork: Fork
) -> None:
    hashed: list[str] = []
    digest = hashlib.file_digest

    def record(stream: Any, name: str) -> Any:
        hashed.append(Path(stream.name).name)
        return digest(stream, name)

    write(checkpoints, 1)
    large = {"a": torch.zeros(30_000_000)}
    write_checkpoint(checkpoints, 2, weights_file=WEIGHTS, weights=large, optimizer=large, state={}, describe=describe)
    del large
    monkeypatch.setattr(hashlib, "file_digest", record)

    def child() -> None:
        before = private_bytes()
        newest = find_newest(checkpoints, WEIGHTS, is_strict=False, report=void)
        assert newest is not None
        assert float(newest.weights["a"].sum()) == 0.0
        assert private_bytes() - before < 20_000_000, "240 MB were read"
        assert sorted(hashed) == sorted(set(FILES) - {MANIFEST})

    assert fork(child) == 0


def private_bytes() -> int:
    """Memory that is neither a file's nor shared, in bytes."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


def test_a_file_that_is_replaced_while_it_is_read_is_not_taken(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = write(checkpoints, 5), write(checkpoints, 6)
    digest = hashlib.file_digest

    def replace_after(stream: Any, name: str) -> Any:
        result = digest(stream, name)
        if stream.name == str(path / WEIGHTS):
            shutil.copy(other / WEIGHTS, path / "aside")
            (path / "aside").replace(path / WEIGHTS)
        return result

    monkeypatch.setattr(hashlib, "file_digest", replace_after)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: changed while it was read"):
        read_checkpoint(path, WEIGHTS)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "..", ".", "", "a/b", "a\0b", MANIFEST])
def test_a_manifest_that_names_a_file_elsewhere_is_refused(checkpoints: Path, name: str) -> None:
    path = write(checkpoints, 5)
    (checkpoints / "outside").write_bytes(b"x")
    content = json.loads((path / MANIFEST).read_text())
    content["files"][name] = {"bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    (path / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="which is no file of this folder") as caught:
        verify(path)
    assert str(caught.value).isprintable()
    assert newest_sound(checkpoints)[0] is None


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "{}", "[" * 100_000, '{"format": 1, "step": 5, "files": {}}', '{"format": 2}', "\x00" * 99],
)
def test_a_manifest_that_is_none_is_refused(checkpoints: Path, text: str) -> None:
    path = write(checkpoints, 5)
    (path / MANIFEST).write_text(text)
    assert not is_sound(path)


def test_a_renamed_checkpoint_and_one_of_other_files_are_refused(checkpoints: Path) -> None:
    path = write(checkpoints, 5)
    renamed = path.rename(checkpoints / folder_name(9))
    with pytest.raises(CheckpointError, match=r"manifest\.json: damaged \(it is that of step 5\)"):
        verify(renamed)


def test_files_that_are_not_listed_are_nobodys_business(checkpoints: Path) -> None:
    path = write(checkpoints, 5)
    (path / "notes.txt").write_text("the good one", encoding="utf-8")
    (path / "folder").mkdir()
    assert_reads_back(path, 5)
    assert newest_sound(checkpoints) == (path, [])


def test_what_is_no_plain_file_is_not_opened(checkpoints: Path) -> None:
    path = write(checkpoints, 5)
    (path / STATE).unlink()
    os.mkfifo(path / STATE)
    with pytest.raises(CheckpointError, match=r"state\.json: missing"):
        read_checkpoint(path, WEIGHTS)


def test_everybody_may_read_the_weights_who_may_read_the_rest(checkpoints: Path) -> None:
    path = write(checkpoints, 5)
    assert {oct((path / name).stat().st_mode) for name in FILES} == {oct((path / STATE).stat().st_mode)}


def test_nothing_is_written_where_there_is_no_room(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(checkpoints, 1)
    weights = {"a": torch.zeros(3 * 1024**2)}

    def save(step: int) -> Path:
        return write_checkpoint(checkpoints, step, weights_file=WEIGHTS, weights=weights, optimizer=weights, state={})

    monkeypatch.setattr(checkpoint, "free_bytes", lambda _path: 20 * 1024**2)
    with pytest.raises(CheckpointError) as caught:
        save(2)
    assert str(caught.value) == (
        f"{checkpoints / folder_name(2)}: not written, since it takes 28 MiB and 20 MiB are free; earlier checkpoints "
        "are intact"
    )
    assert [path.name for path in checkpoints.iterdir()] == [folder_name(1)]
    monkeypatch.setattr(checkpoint, "free_bytes", lambda _path: 30 * 1024**2)
    assert is_sound(save(3))
    monkeypatch.setattr(checkpoint, "free_bytes", lambda _path: None)
    assert is_sound(save(4)), "a file system that does not say how much is free is tried"


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
            content = json.loads((path / MANIFEST).read_text())
            content["files"][name] = {"bytes": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}
            (path / MANIFEST).write_text(json.dumps(content))
        with pytest.raises(CheckpointError):
            read_checkpoint(path, WEIGHTS)
        shutil.rmtree(path)
    assert not (tmp_path / "executed").exists()
    pickle.loads(payload)
    assert (tmp_path / "executed").exists(), "the payload works where it is unpickled"


def void(_value: object) -> None:
    """Drops a value."""
