"""A disk that is full, at every kind of write: nothing is lost, and the user gets one clear line."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import pytest
from chaos import ForkServer
from disk_faults import Disk, Refusal
from fault_outcome import Outcome, assert_same, read_outcome

from recipe_exp.tracking.events import EventTail
from recipe_exp.training.checkpoint import list_checkpoints, verify

FINISHED, MISTAKE = 0, 2
SAVED = r"/checkpoints/step-\d+\.partial"
SPACE = "No space left on device"
GOES_ON = rf"warning: .*{SPACE}.*; training goes on$"
CONTINUE = rf"error: .*{SPACE}.* continue with python -m recipe_exp resume=\S+$"
AGAIN = rf"error: .*{SPACE}.* continue with the same command$"
CACHE = rf"error: data\.cache_dir=.*: cannot be written \({SPACE}\)"
ANOTHER_SAVE = r"warning: step-\d+ could not be saved either"
JOURNAL = rf"(error|warning): .*(journal|metrics)\.jsonl: {SPACE}"


class Whole(Protocol):
    """What the fixture `whole` is."""

    folder: Path
    outcome: Outcome


@dataclass(frozen=True)
class Case:
    """One write that fails.

    Attributes:
        disk: what is refused.
        code: exit code of that start.
        line: pattern of the one line that says so; None where nothing is to be said.
        repetitions: patterns of more lines, where the disk goes on to refuse.
        prepare: a disk for an earlier start, which leaves a run to continue.
        may_miss: paths that need not be there in the end.
    """

    disk: Disk
    code: int
    line: str | None
    repetitions: Sequence[str] = ()
    prepare: Disk | None = None
    may_miss: tuple[str, ...] = ()


def refuse(call: str, pattern: str, **settings: Any) -> Disk:
    return Disk((Refusal(call, pattern, **settings),))


def at_start(disk: Disk, line: str) -> Case:
    return Case(disk, MISTAKE, line)


def once(call: str, pattern: str, after: int = 1, line: str = GOES_ON) -> Case:
    return Case(refuse(call, pattern, after=after, times=1), FINISHED, line)


def resumed(disk: Disk, code: int, line: str) -> Case:
    # The earlier start leaves a run without its last checkpoints.
    return Case(disk, code, line, prepare=refuse("tensors", r"/optimizer\.safetensors$", after=4))


NO_FOLDER = rf"error: output_dir=outputs: no run folder can be made there \({SPACE}\)"
START = {
    "run folder": at_start(refuse("mkdir", r"/runs/[^/]+$"), NO_FOLDER),
    "quota": at_start(
        refuse("mkdir", r"/runs$", error="EDQUOT"), r"error: output_dir=outputs: .*\(Disk quota exceeded\)"
    ),
    "run.json": at_start(refuse("write", r"/\.run\.json\."), NO_FOLDER),
    "run.json renamed": at_start(refuse("rename", r"/\.run\.json\."), NO_FOLDER),
    "run.json again": at_start(refuse("write", r"/\.run\.json\.", after=1), CONTINUE),
    "run.lock": at_start(refuse("open", r"/run\.lock$"), AGAIN),
    "run.lock's note": Case(refuse("write", r"/run\.lock$"), FINISHED, None),
    "config.yaml": at_start(refuse("write", r"/\.config\.yaml"), AGAIN),
    "journal opened": at_start(refuse("open", r"/journal\.jsonl$"), rf"error: .*journal\.jsonl: .*{SPACE}"),
    "journal": at_start(refuse("write", r"/journal\.jsonl$"), JOURNAL),
    "journal flushed": at_start(refuse("fsync", r"/journal\.jsonl$"), rf"error: .*journal\.jsonl: .*{SPACE}"),
    "read-only": at_start(refuse("write", r"/\.config\.yaml", error="EROFS"), r"error: .*Read-only file system"),
}
PREPARE = {
    "cache": at_start(refuse("mkdir", r"/cache$"), CACHE),
    "cache's lock": at_start(refuse("open", r"/cache/.*\.lock$"), CACHE),
    "file hashes": Case(refuse("write", r"/\.file_hashes"), FINISHED, None, may_miss=("cache/file_hashes.json",)),
    "records": at_start(refuse("write", r"\.building/work/records"), CACHE),
    "signatures": at_start(refuse("write", r"\.building/work/signatures"), CACHE),
    "splits": at_start(refuse("write", r"\.building/train\.jsonl"), CACHE),
    "rejects": at_start(refuse("write", r"\.building/rejects\.jsonl"), CACHE),
    "tokenizer": at_start(refuse("write", r"\.building/tokenizer\.aside/tokenizer\.json"), CACHE),
    "tokens": at_start(refuse("write", r"\.building/train/tokens"), CACHE),
    "lengths": at_start(refuse("write", r"\.building/\w+/target_lengths"), CACHE),
    "card": at_start(refuse("write", r"\.building/card"), CACHE),
    "cache flushed": at_start(refuse("fsync", r"\.building"), CACHE),
    "cache renamed": at_start(refuse("rename", r"\.building$"), CACHE),
}
SAVE = {
    "first save": once("tensors", rf"{SAVED}/model\.", after=0),
    "weights": once("tensors", rf"{SAVED}/model\."),
    "optimizer": once("tensors", rf"{SAVED}/optimizer\."),
    "state": once("write", rf"{SAVED}/state\.json$"),
    "model's config": once("write", rf"{SAVED}/config\.json$"),
    "model's tokenizer": once("write", rf"{SAVED}/tokenizer\.json$"),
    "manifest": once("write", rf"{SAVED}/manifest\.json$"),
    "save flushed": once("fsync", rf"{SAVED}/", after=9),
    "save's folder": once("mkdir", rf"{SAVED}$"),
    "save renamed": once("rename", rf"{SAVED}$"),
    "worn out": Case(
        refuse("tensors", rf"{SAVED}/optimizer\.", after=1, times=1, error="EIO"), FINISHED, "warning: .*error"
    ),
    "several saves": Case(
        refuse("tensors", rf"{SAVED}/model\.", after=1, times=3),
        FINISHED,
        GOES_ON,
        [r"warning: step-00000006 could not be saved either$", r"warning: step-00000009 could not be saved either$"],
    ),
    "last save": at_start(refuse("tensors", rf"{SAVED}/model\.", after=13), CONTINUE),
    "model linked": Case(refuse("link", r"/model\.partial/"), FINISHED, None),
    "model's folder": once(
        "mkdir", r"/model\.partial$", line=rf"warning: .*/model: cannot.*{SPACE}.*training goes on$"
    ),
    "model copied": once("write", r"/model\.partial/config\.json$"),
    "model renamed": once("rename", r"/model\.partial$"),
    "last model": Case(refuse("mkdir", r"/model\.partial$", after=5), MISTAKE, CONTINUE, [GOES_ON, GOES_ON]),
    "best": once("write", r"/\.run\.json\.", after=6),
}
LOG = {
    "metrics": Case(refuse("write", r"/metrics\.jsonl$", after=1, times=1), FINISHED, None),
    "metrics at a save": Case(refuse("write", r"/metrics\.jsonl$", after=2, times=2), FINISHED, JOURNAL),
    "journal later": Case(
        refuse("write", r"/journal\.jsonl$", after=12),
        MISTAKE,
        CONTINUE,
        [JOURNAL, ANOTHER_SAVE],
    ),
    "samples": Case(
        refuse("write", r"/samples\.jsonl$", after=1, times=1), FINISHED, rf"warning: .*samples\.jsonl: {SPACE}"
    ),
    "run.json at the end": at_start(refuse("write", r"/\.run\.json\.", after=24), CONTINUE),
}
RESUME = {
    "resume: config.yaml": resumed(refuse("rename", r"/\.config\.yaml"), MISTAKE, CONTINUE),
    "resume: metrics": resumed(refuse("write", r"/\.metrics\.jsonl\."), MISTAKE, CONTINUE),
    "resume: samples": resumed(refuse("write", r"/\.samples\.jsonl\."), MISTAKE, CONTINUE),
    "resume: journal": resumed(refuse("write", r"/journal\.jsonl$"), MISTAKE, JOURNAL),
    "resume: model": resumed(refuse("rename", r"/model\.partial$", times=1), FINISHED, GOES_ON),
}
CASES = {**START, **PREPARE, **SAVE, **LOG, **RESUME}
REPRESENTATIVE = ("config.yaml", "tokens", "weights", "last save")


def told(shown: str) -> list[str]:
    """The lines that say that something is wrong."""
    return [line for line in shown.splitlines() if line.startswith(("warning: ", "error: "))]


def assert_intact(folder: Path) -> None:
    """Every checkpoint is whole, none is half there, and every line that the journal holds can be read."""
    for run in (folder / "outputs" / "runs").glob("*"):
        found = list_checkpoints(run / "checkpoints")
        for path in found:
            verify(path)
        assert [path.name for path in sorted((run / "checkpoints").glob("*"))] == [path.name for path in found]
        tail = EventTail(run / "journal.jsonl")
        while tail.read():
            pass
        assert tail.num_skipped == 0
        assert not list(run.glob(".*.tmp"))


def assert_one_line(shown: str, line: str | None, repetitions: Sequence[str] = ()) -> None:
    assert "Traceback" not in shown, shown
    expected = [*repetitions] if line is None else [line, *repetitions]
    lines = told(shown)
    # How many writes there are until the disk is full, and so how many saves fail after it, is a matter of time.
    different = [one for one in lines if not re.match(ANOTHER_SAVE, one)]
    assert len(different) == len([pattern for pattern in expected if not pattern.startswith("warning: step-")]), shown
    for pattern in expected:
        assert any(re.match(pattern, one) for one in lines), f"{pattern}\n" + "\n".join(lines)


def fill_and_free(case: Case, server: ForkServer, command: list[str], expected: Outcome, folder: Path) -> None:
    """Runs the command on a disk that refuses, then word for word on one that does not."""
    if case.prepare is not None:
        assert server.attempt(command, folder, disk=case.prepare).code == MISTAKE
    attempt = server.attempt(command, folder, disk=case.disk)
    assert attempt.code == case.code, attempt.shown
    assert_one_line(attempt.shown, case.line, case.repetitions)
    assert_intact(folder)
    again = server.attempt(command, folder)
    assert again.code == FINISHED, again.shown
    assert told(again.shown) == []
    there = tuple(path for path in expected.tree if path not in case.may_miss or (folder / path).exists())
    assert_same(comparable(read_outcome(folder)), comparable(replace(expected, tree=there)))


def comparable(outcome: Outcome) -> Outcome:
    """Without what names the place of the run."""
    files = {name: digest for name, digest in outcome.tensors.items() if not name.endswith("adapter_config.json")}
    return replace(outcome, tensors=files)


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_a_full_disk_costs_one_line(
    fork_server: ForkServer, command: list[str], whole: Whole, tmp_path: Path, name: str
) -> None:
    fill_and_free(CASES[name], fork_server, command, whole.outcome, tmp_path)


@pytest.mark.faults_full
@pytest.mark.parametrize("name", [name for name in CASES if name not in REPRESENTATIVE])
def test_a_full_disk_costs_one_line_at_every_write(
    fork_server: ForkServer, command: list[str], whole: Whole, tmp_path: Path, name: str
) -> None:
    fill_and_free(CASES[name], fork_server, command, whole.outcome, tmp_path)


# An adapter on a base that the run keeps.

LORA = ("training=lora", "training.adapter.rank=4", "training.batch_size=8", "training.learning_rate=5e-3")
LORA_CASES = {
    "base": at_start(
        refuse("tensors", r"/base\.partial/"), rf"error: .*/base: cannot be written \({SPACE}\); make room"
    ),
    "base's config": at_start(refuse("write", r"/base\.partial/config\.json$"), rf"error: .*/base: cannot .*{SPACE}"),
    "base renamed": at_start(refuse("rename", r"/base\.partial$"), rf"error: .*/base: cannot be written \({SPACE}\)"),
    "adapter": once("tensors", rf"{SAVED}/adapter_model\."),
    "adapter's config": once("write", rf"{SAVED}/adapter_config\.json$"),
}


@pytest.fixture(scope="module")
def whole_lora(fork_server: ForkServer, command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of an adapter that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole_lora")
    attempt = fork_server.attempt([*command, *LORA], folder)
    assert attempt.code == FINISHED, attempt.shown
    return folder


@pytest.mark.faults_full
@pytest.mark.parametrize("name", LORA_CASES)
def test_a_full_disk_costs_an_adapter_one_line(
    fork_server: ForkServer, command: list[str], whole_lora: Path, tmp_path: Path, name: str
) -> None:
    fill_and_free(LORA_CASES[name], fork_server, [*command, *LORA], read_outcome(whole_lora), tmp_path)


# What other tasks write.

REFUSED = rf"error: task\.output=\S+: (cannot be written \({SPACE}\)|{SPACE}); .*(choose another|name a) file"
TASKS = {
    "evaluation": (["task=evaluate"], "evaluation-validation.json", REFUSED),
    "generated": (["task=generate", "task.prompts=[Write a recipe for toast.]"], "recipes.jsonl", REFUSED),
    "plan": (["task=plan"], "plan.json", REFUSED),
}


@pytest.mark.faults_full
@pytest.mark.parametrize("name", TASKS)
def test_a_full_disk_leaves_an_earlier_result(fork_server: ForkServer, whole: Whole, tmp_path: Path, name: str) -> None:
    task, file, line = TASKS[name]
    output = tmp_path / "temporary" / file
    output.parent.mkdir()
    output.write_text("an earlier result")
    command = [*task, f"output_dir={whole.folder / 'outputs'}", f"task.output={output}", "hardware=cpu"]
    attempt = fork_server.attempt(command, tmp_path, disk=refuse("write", rf"/\.{re.escape(file)}"))
    assert attempt.code == MISTAKE, attempt.shown
    assert_one_line(attempt.shown, line)
    assert output.read_text() == "an earlier result"
    assert [path.name for path in output.parent.iterdir()] == [file]
    if name != "plan":
        assert len(attempt.shown.splitlines()) > 1, "what was computed is shown where it could not be written"
    again = fork_server.attempt(command, tmp_path)
    assert again.code == FINISHED, again.shown
    assert json.loads(output.read_text().splitlines()[0] if name == "generated" else output.read_text())


@pytest.mark.faults_full
@pytest.mark.parametrize("call", ["tensors", "write"])
def test_a_merge_that_finds_no_room_leaves_nothing(
    fork_server: ForkServer, whole_lora: Path, tmp_path: Path, call: str
) -> None:
    outputs, target = whole_lora / "outputs", tmp_path / "merged"
    command = ["task=merge", f"output_dir={outputs}", f"task.output={target}"]
    attempt = fork_server.attempt(command, tmp_path, disk=refuse(call, r"/merged\.partial/"))
    assert attempt.code == MISTAKE, attempt.shown
    assert_one_line(attempt.shown, rf"error: {target}: cannot be written \({SPACE}\); make room")
    assert not list(tmp_path.glob("merged*"))
    assert fork_server.attempt(command, tmp_path).code == FINISHED
    assert (target / "model.safetensors").is_file()


SWEEP_CASES = {
    "sweep.json": (refuse("write", r"/\.sweep\.json"), FINISHED, []),
    "sweep.json once": (refuse("write", r"/\.sweep\.json", times=1), FINISHED, []),
    "trial's log": (refuse("open", r"/trial-1\.log$"), FINISHED, []),
}


@pytest.mark.faults_full
@pytest.mark.parametrize("name", SWEEP_CASES)
def test_a_full_disk_ends_no_trial_of_a_sweep(
    fork_server: ForkServer, command: list[str], tmp_path: Path, name: str
) -> None:
    disk, code, errors = SWEEP_CASES[name]
    sweep = [*(key for key in command if not key.startswith("resume")), "training.max_steps=4", "seed=1,2", "-m"]
    attempt = fork_server.attempt(sweep, tmp_path, disk=disk)
    assert attempt.code == code, attempt.shown
    assert "Traceback" not in attempt.shown, attempt.shown
    lines = [line for line in told(attempt.shown) if line.startswith("error")]
    assert len(lines) == len(errors)
    assert all(re.match(pattern, line) for pattern, line in zip(errors, lines, strict=True)), attempt.shown
    assert SPACE in attempt.shown
    records = [json.loads(path.read_text()) for path in (tmp_path / "outputs" / "runs").glob("*/run.json")]
    assert [record["status"] for record in records] == ["finished", "finished"]


@pytest.mark.faults_full
def test_a_sweep_whose_ledger_finds_no_room_starts_nothing(
    fork_server: ForkServer, command: list[str], tmp_path: Path
) -> None:
    sweep = [*(key for key in command if not key.startswith("resume")), "training.max_steps=4", "seed=1,2", "-m"]
    attempt = fork_server.attempt(sweep, tmp_path, disk=refuse("write", r"/ledger\.jsonl$"))
    assert attempt.code == MISTAKE, attempt.shown
    assert_one_line(attempt.shown, rf"error: .*ledger\.jsonl: cannot be written \({SPACE}\)")
    assert not list((tmp_path / "outputs").glob("runs/*"))
    assert fork_server.attempt(sweep, tmp_path).code == FINISHED


# The kernel's own refusals.

LIMITED = """
import resource, sys
from recipe_exp.__main__ import main
limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
sys.exit(main(sys.argv[1:]))
"""
LARGE = r"(warning|error): .*(File too large|could not be saved either)"


@pytest.mark.faults_full
@pytest.mark.parametrize("limit", [0, 1_000, 4_000, 9_000, 20_000, 60_000, 150_000])
def test_a_limit_of_file_sizes_loses_nothing(
    fork_server: ForkServer, command: list[str], whole: Whole, tmp_path: Path, limit: int
) -> None:
    """Nothing here is pretended: the kernel refuses at whatever file reaches the limit first."""
    (tmp_path / "temporary").mkdir()
    started = subprocess.run(
        [sys.executable, "-c", LIMITED, str(limit), *command],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path / "temporary")},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    shown = started.stdout + started.stderr
    assert started.returncode == MISTAKE, shown
    assert "Traceback" not in shown, shown
    assert told(shown)
    assert all(re.match(LARGE, line) or "TMPDIR" in line for line in told(shown)), shown
    assert sum(line.startswith("error: ") for line in told(shown)) == 1
    assert_intact(tmp_path)
    again = fork_server.attempt(command, tmp_path)
    assert again.code == FINISHED, again.shown
    assert_same(read_outcome(tmp_path), whole.outcome)


SMALL_DISK = """
set -e
mkdir disk && mount -t tmpfs -o size="$1" tmpfs disk
shift
set +e
"$@"; echo "code $?"
mount -o remount,size=200m disk
"$@"; echo "code $?"
cp -r disk/outputs disk/cache .
"""
CAN_MOUNT = (
    shutil.which("unshare") is not None
    and not subprocess.run(
        ["unshare", "-Urm", "sh", "-c", "mount -t tmpfs none /mnt"], capture_output=True, check=False
    ).returncode
)


@pytest.mark.faults_full
@pytest.mark.skipif(not CAN_MOUNT, reason="this system lets nobody mount a small disk")
@pytest.mark.parametrize(("size", "is_run_there"), [("48k", False), ("1m", True), ("3m", True), ("7m", True)])
def test_a_disk_that_really_is_full_loses_nothing(
    command: list[str], whole: Whole, tmp_path: Path, size: str, is_run_there: bool
) -> None:
    """A memory disk of a few pages, and the same command on it when it has grown."""
    places = [f"output_dir={tmp_path / 'disk' / 'outputs'}", f"data.cache_dir={tmp_path / 'disk' / 'cache'}"]
    arguments = [*(key for key in command if not key.startswith("data.cache_dir")), *places]
    start = [sys.executable, "-m", "recipe_exp", *arguments]
    (tmp_path / "temporary").mkdir()
    started = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", SMALL_DISK, "sh", size, *start],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path / "temporary")},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    shown = started.stdout + started.stderr
    codes = re.findall(r"^code (\d+)$", started.stdout, re.MULTILINE)
    assert codes == [str(MISTAKE), str(FINISHED)], shown
    assert "Traceback" not in shown, shown
    assert len(told(shown)) >= 1
    assert sum(line.startswith("error: ") for line in told(shown)) == 1
    assert ("continuing at step" in started.stdout) <= is_run_there
    outcome = read_outcome(tmp_path)
    assert_same(outcome, whole.outcome)
