"""Checkpoints that a disk, a copy or a person damaged: each is noticed, none is loaded, the one before is taken."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
from chaos import Attempt, ForkServer
from fault_child import Trigger
from fault_outcome import Outcome, assert_same, read_outcome, the_run

from recipe_exp.errors import CheckpointError
from recipe_exp.training.checkpoint import find_newest, list_checkpoints, read_checkpoint

NUM_BITS = 100
NUM_CUTS = 20
STOP_AT = 20
LORA = ("training=lora", "training.adapter.rank=4", "training.batch_size=8", "training.learning_rate=5e-3")
KINDS = {"full": ((), "model.safetensors"), "lora": (LORA, "adapter_model.safetensors")}
FILES = {
    "full": (
        *("manifest.json", "model.safetensors", "optimizer.safetensors", "state.json", "config.json"),
        *("generation_config.json", "tokenizer.json", "tokenizer_config.json"),
    ),
    "lora": (
        *("manifest.json", "adapter_model.safetensors", "optimizer.safetensors", "state.json", "adapter_config.json"),
        *("base.json", "tokenizer.json", "tokenizer_config.json"),
    ),
}


class Whole(Protocol):
    """What the fixture `whole` is."""

    folder: Path
    outcome: Outcome


def removed(file: Path, _draw: random.Random) -> None:
    file.unlink()


def emptied(file: Path, _draw: random.Random) -> None:
    file.write_bytes(b"")


def truncated(file: Path, draw: random.Random) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: draw.randrange(1, len(content))])


def with_a_flipped_bit(file: Path, draw: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)


def zeroed_at_the_end(file: Path, draw: random.Random) -> None:
    """What a power cut leaves of a file whose size was on the disk before its content."""
    content = file.read_bytes()
    length = draw.randrange(1, len(content))
    file.write_bytes(content[:-length] + bytes(length))


def swapped_with_the_one_before(file: Path, _draw: random.Random) -> None:
    before = list_checkpoints(file.parent.parent)[-2] / file.name
    file.write_bytes(before.read_bytes())


Damage = Callable[[Path, random.Random], None]
DAMAGES: dict[Damage, int] = {
    removed: 1,
    emptied: 1,
    truncated: NUM_CUTS,
    with_a_flipped_bit: NUM_BITS,
    zeroed_at_the_end: NUM_CUTS,
}


class Stopped:
    """Runs that SIGTERM ended at a step, one of each kind, which tests copy and damage."""

    def __init__(self, server: ForkServer, command: list[str], folder: Path) -> None:
        self._server = server
        self._command = command
        self._folder = folder

    def command(self, kind: str) -> list[str]:
        return [*self._command, *KINDS[kind][0]]

    def copy(self, kind: str, target: Path) -> Path:
        """Copies the folder of such a run and returns its checkpoints, of which the newest is that of `STOP_AT`."""
        source = self._folder / kind
        if not source.is_dir():
            source.mkdir()
            trigger = Trigger(r"call step$", STOP_AT, signal.SIGTERM)
            attempt = self._server.attempt(self.command(kind), source, triggers=[trigger])
            assert attempt.code == 143, attempt.shown
        shutil.copytree(source, target, dirs_exist_ok=True)
        return the_run(target) / "checkpoints"


@pytest.fixture(scope="module")
def stopped(fork_server: ForkServer, command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    return Stopped(fork_server, command, tmp_path_factory.mktemp("stopped"))


def damages_of(name: str, newest: Path) -> Iterator[tuple[int, str]]:
    """Damages a file in one way after the other and yields each's number and name; it is whole again afterwards."""
    file = newest / name
    content = file.read_bytes()
    for damage, count in DAMAGES.items():
        draw = random.Random(f"{name} {damage.__name__}")
        for number in range(count):
            damage(file, draw)
            if not file.exists() or file.read_bytes() != content:
                yield number, f"{name} {damage.__name__} {number}"
            file.write_bytes(content)


@pytest.mark.faults_full
@pytest.mark.parametrize("kind", KINDS)
def test_every_damage_to_every_file_is_noticed_and_none_is_loaded(
    stopped: Stopped, tmp_path: Path, kind: str, record_property: Callable[[str, object], None]
) -> None:
    checkpoints = stopped.copy(kind, tmp_path)
    weights = KINDS[kind][1]
    newest = list_checkpoints(checkpoints)[-1]
    assert {path.name for path in newest.iterdir()} == set(FILES[kind])
    num_damages = 0
    for name in FILES[kind]:
        for number, what in damages_of(name, newest):
            with pytest.raises(CheckpointError) as caught:
                read_checkpoint(newest, weights)
            # A manifest may be damaged so that it only seems to be another file's fault.
            assert str(caught.value).startswith(str(newest if name == "manifest.json" else newest / name)), what
            if number == 0:
                assert_passed_over(checkpoints, weights, str(caught.value))
            num_damages += 1
    record_property("noticed", num_damages)
    whole = find_newest(checkpoints, weights, is_strict=True, report=pytest.fail)
    assert whole is not None
    assert whole.path == newest
    assert num_damages >= len(FILES[kind]) * (NUM_BITS + NUM_CUTS)


def assert_passed_over(checkpoints: Path, weights: str, damage: str) -> None:
    """The checkpoint before the newest is taken, or with `resume_strict` none."""
    before = list_checkpoints(checkpoints)[-2]
    lines: list[str] = []
    found = find_newest(checkpoints, weights, is_strict=False, report=lines.append)
    assert found is not None
    assert found.path == before
    assert lines == [f"warning: {damage}; falling back to {before.name}"]
    with pytest.raises(CheckpointError) as caught:
        find_newest(checkpoints, weights, is_strict=True, report=pytest.fail)
    assert str(caught.value) == (
        f"resume_strict=true: {damage}; put the file back from a copy, or continue from {before.name} with "
        "resume_strict=false"
    )


@pytest.mark.faults_full
def test_files_of_two_checkpoints_do_not_make_one(stopped: Stopped, tmp_path: Path) -> None:
    checkpoints = stopped.copy("full", tmp_path)
    *_, before, newest = list_checkpoints(checkpoints)
    for name in ("manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"):
        content = (newest / name).read_bytes()
        swapped_with_the_one_before(newest / name, random.Random(0))
        found = find_newest(checkpoints, "model.safetensors", is_strict=False, report=lambda _line: None)
        assert found is not None
        assert found.path == before, name
        (newest / name).write_bytes(content)


def assert_falls_back(
    stopped: Stopped, server: ForkServer, whole: Outcome, folder: Path, kind: str, name: str, damage: Damage
) -> Attempt:
    """Damages a file of the newest checkpoint; `resume_strict` refuses, and without it the run ends as if whole."""
    checkpoints = stopped.copy(kind, folder)
    *_, before, newest = list_checkpoints(checkpoints)
    damage(newest / name, random.Random(f"{kind} {name}"))
    record = json.loads((checkpoints.parent / "run.json").read_text())
    strict = server.attempt([*stopped.command(kind), "resume_strict=true"], folder)
    assert strict.code == 2, strict.shown
    (line,) = [line for line in strict.shown.splitlines() if line.startswith(("error: ", "warning: "))]
    assert line.startswith(f"error: resume_strict=true: {newest / name}: ")
    assert f"continue from {before.name} with resume_strict=false" in line
    assert "Traceback" not in strict.shown
    after = json.loads((checkpoints.parent / "run.json").read_text())
    assert {**after, "updated": 0} == {**record, "updated": 0}, "a refused start leaves the run as it was"
    attempt = server.attempt(stopped.command(kind), folder)
    assert attempt.code == 0, attempt.shown
    (line,) = [line for line in attempt.shown.splitlines() if line.startswith(("error: ", "warning: "))]
    assert re.match(rf"warning: {re.escape(str(newest / name))}: .*; falling back to {before.name}$", line), line
    assert f"continuing at step {int(before.name.removeprefix('step-'))} of" in attempt.shown
    assert_same(without_places(read_outcome(folder)), without_places(whole))
    return attempt


def without_places(outcome: Outcome) -> Outcome:
    """An adapter's configuration names the place of its base."""
    files = {name: digest for name, digest in outcome.tensors.items() if not name.endswith("adapter_config.json")}
    return Outcome(**{**vars(outcome), "tensors": files})


def test_a_run_falls_back_and_ends_as_if_nothing_had_happened(
    stopped: Stopped, fork_server: ForkServer, whole: Whole, tmp_path: Path
) -> None:
    assert_falls_back(
        stopped, fork_server, whole.outcome, tmp_path, "full", "optimizer.safetensors", with_a_flipped_bit
    )


SWAPPED = ("state.json", swapped_with_the_one_before)
CASES = [*((name, list(DAMAGES)[number % 5]) for number, name in enumerate(FILES["full"])), SWAPPED]
LORA_CASES = [*((name, list(DAMAGES)[number % 5]) for number, name in enumerate(FILES["lora"], start=3)), SWAPPED]


@pytest.mark.faults_full
@pytest.mark.parametrize(("name", "damage"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_a_run_falls_back_whatever_is_damaged(
    stopped: Stopped, fork_server: ForkServer, whole: Whole, tmp_path: Path, name: str, damage: Damage
) -> None:
    assert_falls_back(stopped, fork_server, whole.outcome, tmp_path, "full", name, damage)


@pytest.fixture(scope="module")
def whole_lora(fork_server: ForkServer, stopped: Stopped, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("whole_lora")
    assert fork_server.attempt(stopped.command("lora"), folder).code == 0
    return read_outcome(folder)


@pytest.mark.faults_full
@pytest.mark.parametrize(("name", "damage"), LORA_CASES, ids=lambda value: getattr(value, "__name__", value))
def test_a_run_of_an_adapter_falls_back_whatever_is_damaged(
    stopped: Stopped, fork_server: ForkServer, whole_lora: Outcome, tmp_path: Path, name: str, damage: Damage
) -> None:
    assert_falls_back(stopped, fork_server, whole_lora, tmp_path, "lora", name, damage)


@pytest.mark.faults_full
def test_a_run_without_a_whole_checkpoint_is_refused_in_one_line(
    stopped: Stopped, fork_server: ForkServer, tmp_path: Path
) -> None:
    checkpoints = stopped.copy("full", tmp_path)
    for path in list_checkpoints(checkpoints):
        emptied(path / "state.json", random.Random(0))
    attempt = fork_server.attempt(stopped.command("full"), tmp_path)
    assert attempt.code == 2, attempt.shown
    (line,) = [line for line in attempt.shown.splitlines() if line.startswith(("error: ", "warning: "))]
    assert "state.json: damaged (0 bytes instead of" in line
    assert "no other checkpoint is whole; put the file back from a copy, or start a run of its own" in line


@pytest.mark.faults_full
@pytest.mark.parametrize("damage", [truncated, with_a_flipped_bit, removed])
def test_a_damaged_model_is_not_used(fork_server: ForkServer, whole: Whole, tmp_path: Path, damage: Damage) -> None:
    shutil.copytree(whole.folder, tmp_path, dirs_exist_ok=True)
    model = the_run(tmp_path) / "model"
    content = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").unlink()
    (model / "model.safetensors").write_bytes(content)
    damage(model / "model.safetensors", random.Random(1))
    for command in (["task=generate", "task.prompts=[Write a recipe for toast.]"], ["task=evaluate"]):
        attempt = fork_server.attempt([*command, "hardware=cpu"], tmp_path)
        assert attempt.code == 2, attempt.shown
        (line,) = [line for line in attempt.shown.splitlines() if line.startswith("error: ")]
        assert re.match(
            rf"error: {re.escape(str(model))}/model\.safetensors: (damaged|missing).*; put the file back", line
        ), line
