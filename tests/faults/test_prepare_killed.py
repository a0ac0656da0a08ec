"""`task=prepare` killed at seeded moments: the same command again gives the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pytest

from recipe_exp.data.sample import sample_recipes

NUM_RECIPES = 4000
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
    process = start(corpus, output_dir)
    wait_for_build(process, output_dir)
    began = time.monotonic()
    assert process.wait(120) == 0
    return Undisturbed(hashes(output_dir), time.monotonic() - began)


def start(corpus: Path, output_dir: Path) -> subprocess.Popen[bytes]:
    arguments = ["task=prepare", "data=jsonl", f"data.path={corpus}", f"output_dir={output_dir}", *SHAPE]
    return subprocess.Popen(
        [sys.executable, "-m", "recipe_exp", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for_build(process: subprocess.Popen[bytes], output_dir: Path) -> None:
    while process.poll() is None and not list(output_dir.glob("cache/*.building")):
        time.sleep(0.002)


def hashes(output_dir: Path) -> dict[str, str]:
    """What every file of the caches holds, by its name."""
    caches = output_dir / "cache"
    files = (file for folder in caches.iterdir() if folder.is_dir() for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(caches).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def disturb(corpus: Path, output_dir: Path, dice: random.Random, num_kills: int, build_seconds: float) -> int:
    """Kills so many preparations, one after another, and lets the last one end; returns how many builds were hit."""
    num_hit = 0
    for _ in range(num_kills):
        process = start(corpus, output_dir)
        wait_for_build(process, output_dir)
        time.sleep(dice.random() * build_seconds)
        num_hit += bool(list(output_dir.glob("cache/*.building")))
        process.kill()
        assert process.wait() in (-signal.SIGKILL, 0)
    assert start(corpus, output_dir).wait(120) == 0
    return num_hit


def test_a_kill_leaves_the_same_bytes_after_the_same_command(
    corpus: Path, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    assert disturb(corpus, tmp_path, random.Random(1), 1, undisturbed.build_seconds) == 1
    assert hashes(tmp_path) == undisturbed.hashes
    assert not list(tmp_path.glob("cache/*.building"))


@pytest.mark.faults_full
@pytest.mark.timeout(1200)
def test_kills_at_many_moments_leave_the_same_bytes(corpus: Path, undisturbed: Undisturbed, tmp_path: Path) -> None:
    num_hit = 0
    for seed in range(10):
        num_hit += disturb(corpus, tmp_path / str(seed), random.Random(seed), 2, undisturbed.build_seconds)
        assert hashes(tmp_path / str(seed)) == undisturbed.hashes
    assert num_hit >= 12
