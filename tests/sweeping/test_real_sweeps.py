"""Sweeps of real training: what trouble and going on leave of the numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

# Which trial it is stands on its command line.
TROUBLE = """
import os, signal, sys
from pathlib import Path
import torch
from recipe_exp import Callback

class Trouble(Callback):
    def on_step_end(self, trainer, result):
        if result.step != 5 or Path(os.environ["MENDED"]).exists():
            return
        if "seed=13" in sys.argv:
            raise RuntimeError("the dough did not rise")
        if "seed=14" in sys.argv:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if "seed=15" in sys.argv:
            os.kill(os.getpid(), signal.SIGKILL)
"""
GRID = ("seed=13,14,15,16", "training.callbacks=[trouble:Trouble]")
NUMBERS = ("train/loss", "train/grad_norm", "eval/loss", "eval/rougeL")


class Kitchen:
    """A folder with troubles in it."""

    def __init__(self, folder: Path, small_run: list[str]) -> None:
        self.folder = folder
        self.small_run = small_run
        (folder / "trouble.py").write_text(TROUBLE)
        self.mended = folder / "mended"

    def run(self, output_dir: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        paths = os.pathsep.join([str(self.folder), str(REPOSITORY)])
        return subprocess.run(
            [sys.executable, "-m", "recipe_exp", "-m", *self.small_run, *arguments, f"output_dir={output_dir}"],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": paths, "MENDED": str(self.mended)},
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
        )

    def trials(self, output_dir: str) -> dict[str, dict[str, Any]]:
        """The sweep's trials by seed."""
        (path,) = (self.folder / output_dir).glob("sweeps/*/sweep.json")
        return {trial["varying"]["seed"]: trial for trial in json.loads(path.read_text())["trials"]}

    def numbers(self, output_dir: str, seed: str) -> list[tuple[int, dict[str, float]]]:
        """A trial's metrics but for those of the clock."""
        folder = self.folder / output_dir / "runs" / self.trials(output_dir)[seed]["run_folder"]
        entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        kept = [(e["step"], {name: e["metrics"][name] for name in NUMBERS if name in e["metrics"]}) for e in entries]
        return [entry for entry in kept if entry[1]]


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_trouble_leaves_no_trace_in_the_numbers(tmp_path: Path, small_run: list[str]) -> None:
    kitchen = Kitchen(tmp_path, small_run)
    done = kitchen.run("troubled", *GRID, "hydra.launcher.slots=2")
    assert done.returncode == 1, done.stderr
    states = {seed: trial["state"] for seed, trial in kitchen.trials("troubled").items()}
    assert states == {"13": "failed", "14": "out of memory", "15": "killed", "16": "done"}, done.stdout
    assert "not ranked: seed=13: failed: RuntimeError: the dough did not rise" in done.stdout
    assert "not ranked: seed=14: out of memory: out of memory in micro-batches of 2,048 tokens" in done.stdout
    assert "not ranked: seed=15: killed: killed by SIGKILL" in done.stdout
    kitchen.mended.touch()
    again = kitchen.run("troubled", *GRID, "hydra.launcher.slots=3")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "1 of them done already" in again.stdout
    assert again.stdout.count("continues resume=") == 3
    assert len(list((tmp_path / "troubled" / "runs").glob("*/"))) == 4
    clean = kitchen.run("clean", *GRID, "hydra.launcher.slots=1")
    assert clean.returncode == 0, clean.stdout + clean.stderr
    for seed in ("13", "15", "16"):
        assert kitchen.numbers("troubled", seed) == kitchen.numbers("clean", seed)
        assert len(kitchen.numbers("clean", seed)) >= 3
        assert kitchen.trials("troubled")[seed]["best"] == kitchen.trials("clean")[seed]["best"]
    folder = kitchen.trials("troubled")["14"]["run_folder"]
    record = json.loads((tmp_path / "troubled" / "runs" / folder / "run.json").read_text())
    assert record["machinery"]["micro_batch_tokens"] == 1024


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_trial_that_is_far_behind_is_pruned(tmp_path: Path, small_run: list[str]) -> None:
    kitchen = Kitchen(tmp_path, small_run)
    done = kitchen.run(
        "pruned",
        *("training.learning_rate=choice(1e-2,1e-9)", "sweep.search=random", "sweep.num_trials=2"),
        *("sweep.pruner=median", "sweep.pruner_startup_trials=1", f"sweep.seed={_seed_with_good_rate_first()}"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (tmp_path / "pruned").glob("sweeps/*/sweep.json")
    trials = json.loads(path.read_text())["trials"]
    assert [(trial["state"], trial["step"]) for trial in trials] == [("done", 8), ("pruned", 4)], done.stdout
    folder = tmp_path / "pruned" / "runs" / trials[1]["run_folder"]
    record = json.loads((folder / "run.json").read_text())
    assert (record["status"], record["stop_reason"]) == ("finished", "pruned")
    assert (folder / "model").is_dir()


def _seed_with_good_rate_first() -> int:
    from recipe_exp.sweeping.space import Dimension, Space

    space = Space((), (Dimension("training.learning_rate", "ordered", values=("0.01", "1e-09")),))
    return next(seed for seed in range(100) if space.draw(1, seed) == [["training.learning_rate=0.01"]])
