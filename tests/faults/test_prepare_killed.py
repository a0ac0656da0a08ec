"""`task=prepare` killed at seeded and at chosen moments: the same command again goes on and gives the same bytes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pytest
from chaos import Attempt, ForkServer
from fault_child import Trigger

from recipe_exp.data.sample import sample_recipes

# Enough that processes read them, and that there is more than one block of tokens.
NUM_RECIPES = 5000
MOMENTS = {
    "reading: begun": (r"opened .*/work/intake\.log$", 1),
    "reading: first chunk": ("call intake$", 1),
    "reading: later chunk": ("call intake$", 4),
    "reading: gone on with": ("call intake$", 3),
    "duplicates: begun": ("call bands$", 1),
    "duplicates: midway": ("call bands$", 9),
    "writing: begun": (r"opened .*\.building/train\.jsonl$", 1),
    "writing: rejects": ("call reject$", 30),
    "work: whole": (r"shutil\.rmtree .*/work$", 1),
    "work: half removed": (r"os\.remove .*\.building/work/", 4),
    "prepared: flushed": (r"fsync .*/prepared-\w+\.building/", 3),
    "prepared: card": (r"opened .*/prepared-\w+\.building/card\.json$", 1),
    "prepared: renamed": (r"os\.rename .*/prepared-\w+\.building$", 1),
    "prepared: in place": (r"fsync .*/cache$", 1),
    "tokenizer: begun": (r"opened .*/tokenizer\.aside/", 1),
    "tokenizer: renamed": (r"os\.rename .*/tokenizer\.aside$", 1),
    "tokens: begun": (r"opened .*\.building/train/tokens\.log$", 1),
    "tokens: first block": ("call encode$", 5),
    "tokens: later block": ("call encode$", 22),
    "tokens: last split": (r"opened .*\.building/test/tokens\.u16$", 1),
    "tokens: log removed": (r"os\.remove .*/tokens\.log$", 2),
    "tokens: card": (r"fsync .*/[0-9a-f]{32}\.building/card\.json$", 1),
    "tokens: renamed": (r"os\.rename .*/[0-9a-f]{32}\.building$", 1),
}
"""Moments of a build, in order, by the line of `fault_child` and which of those that match it."""
ONE_OF_EACH_STAGE = (
    "reading: later chunk",
    "duplicates: midway",
    "writing: rejects",
    "work: half removed",
    "tokenizer: renamed",
    "tokens: later block",
    "tokens: card",
)
SHAPE = ("model.shape.vocab_size=700", "hardware=cpu", "hardware.num_threads=1", "hardware.num_workers=2")


@dataclass(frozen=True)
class Undisturbed:
    """What a preparation gives that nothing disturbs, and how long its build takes."""

    hashes: dict[str, str]
    build_seconds: float


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recipes with duplicates and lines that are rejected."""
    recipes = [
        {"title": recipe.title, "ingredients": list(recipe.ingredients), "instructions": list(recipe.instructions)}
        for recipe in islice(sample_recipes(seed=3), NUM_RECIPES)
    ]
    lines = [json.dumps(recipe) for recipe in [*recipes, *recipes[:50]]]
    lines[10:10] = ["{", '{"title": "Toast"}']
    path = tmp_path_factory.mktemp("corpus") / "recipes.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def undisturbed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    output_dir = tmp_path_factory.mktemp("undisturbed")
    since = time.time()
    process = start(corpus, output_dir)
    wait_for_build(process, output_dir, since)
    began = time.monotonic()
    assert process.wait(240) == 0
    return Undisturbed(hashes(output_dir), time.monotonic() - began)


def start(corpus: Path, output_dir: Path) -> subprocess.Popen[bytes]:
    arguments = ["task=prepare", "data=jsonl", f"data.path={corpus}", f"output_dir={output_dir}", *SHAPE]
    return subprocess.Popen(
        [sys.executable, "-m", "recipe_exp", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for_build(process: subprocess.Popen[bytes], output_dir: Path, since: float) -> None:
    """Waits until the process writes, or ends; what lies in the folder may be from a process before it."""
    while process.poll() is None:
        with contextlib.suppress(FileNotFoundError):  # a file that was renamed meanwhile
            if any(file.stat().st_mtime > since for file in output_dir.glob("cache/*.building/**/*")):
                return
        time.sleep(0.005)


def hashes(output_dir: Path) -> dict[str, str]:
    """What every file of the caches and of the prepared data holds, by its name."""
    caches = output_dir / "cache"
    assert len(list(caches.glob("prepared-*/train.jsonl"))) == 1
    files = (file for folder in caches.iterdir() if folder.is_dir() for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(caches).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def disturb(corpus: Path, output_dir: Path, dice: random.Random, num_kills: int, build_seconds: float) -> None:
    """Kills so many preparations in the middle of a build, one after another, and lets the last one end."""
    num_hit = 0
    while num_hit < num_kills:
        since = time.time()
        process = start(corpus, output_dir)
        wait_for_build(process, output_dir, since)
        time.sleep(dice.random() * build_seconds)
        process.kill()
        if process.wait() == 0:
            # The machine is quicker than when the build was timed. The uploader still writes beside the cache.
            shutil.rmtree(output_dir / "cache")
            num_hit, build_seconds = 0, build_seconds / 2
        else:
            num_hit += bool(list(output_dir.glob("cache/*.building")))
    assert start(corpus, output_dir).wait(240) == 0


def test_a_kill_leaves_the_same_bytes_after_the_same_command(
    corpus: Path, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    disturb(corpus, tmp_path, random.Random(1), 1, undisturbed.build_seconds)
    assert any("/test.jsonl" in name for name in undisturbed.hashes)
    assert hashes(tmp_path) == undisturbed.hashes
    assert not list(tmp_path.glob("cache/*.building"))


@pytest.mark.faults_full
@pytest.mark.timeout(1200)
def test_kills_at_many_moments_leave_the_same_bytes(corpus: Path, undisturbed: Undisturbed, tmp_path: Path) -> None:
    for seed in range(10):
        disturb(corpus, tmp_path / str(seed), random.Random(seed), 2, undisturbed.build_seconds)
        assert hashes(tmp_path / str(seed)) == undisturbed.hashes


def attempt(server: ForkServer, corpus: Path, folder: Path, moment: str | None = None) -> Attempt:
    """Starts the command, and has it kill itself at the moment."""
    arguments = ["task=prepare", "data=jsonl", f"data.path={corpus}", "data.cache_dir=cache", *SHAPE]
    triggers = [Trigger(*MOMENTS[moment], signal.SIGKILL)] if moment else []
    return server.attempt([*arguments, "hardware.num_workers=1"], folder, triggers=triggers)


def num_calls(attempts: list[Attempt], name: str) -> int:
    return sum(one.events.count(f"call {name}") for one in attempts)


@pytest.mark.parametrize(
    "moments", [ONE_OF_EACH_STAGE, pytest.param(tuple(MOMENTS), marks=pytest.mark.faults_full)], ids=["few", "all"]
)
def test_one_build_that_is_killed_in_every_stage_gives_the_same_bytes(
    fork_server: ForkServer, corpus: Path, undisturbed: Undisturbed, tmp_path: Path, moments: tuple[str, ...]
) -> None:
    killed = [attempt(fork_server, corpus, tmp_path, moment) for moment in moments]
    assert {moment: one.code for moment, one in zip(moments, killed, strict=True)} == dict.fromkeys(moments, -9)
    last = attempt(fork_server, corpus, tmp_path)
    assert last.code == 0, last.last_words
    assert hashes(tmp_path) == undisturbed.hashes
    assert not list(tmp_path.glob("cache/*.building"))


@pytest.mark.parametrize("moment", ["reading: later chunk", "tokens: later block"])
def test_what_was_complete_is_not_done_again(
    fork_server: ForkServer, corpus: Path, undisturbed: Undisturbed, tmp_path: Path, moment: str
) -> None:
    first = attempt(fork_server, corpus, tmp_path, moment)
    second = attempt(fork_server, corpus, tmp_path)
    assert (first.code, second.code) == (-9, 0)
    assert hashes(tmp_path) == undisturbed.hashes
    num_chunks = -(-(NUM_RECIPES + 52) // 512)
    assert num_calls([first, second], "intake") == num_chunks + (moment == "reading: later chunk")
    if moment == "tokens: later block":
        blocks_done = 2 * 8
        assert num_calls([second], "encode") <= num_calls([first, second], "encode") - blocks_done
        assert not any("tokenizer.aside" in line for line in second.events)


@pytest.mark.faults_full
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_at_a_chosen_moment_leaves_the_same_bytes(
    fork_server: ForkServer, corpus: Path, undisturbed: Undisturbed, tmp_path: Path, moment: str
) -> None:
    assert attempt(fork_server, corpus, tmp_path, moment).code == -9
    last = attempt(fork_server, corpus, tmp_path)
    assert last.code == 0, last.last_words
    assert hashes(tmp_path) == undisturbed.hashes
