"""Measure what slots gain: `sweep_slots.py [--rounds N] [--steps N] [KEY=VALUE ...]`.

The sweep `sweeps=learning_rate` of a tiny model runs on two slots and on one, in rounds, each round in another order,
every sweep in a folder of its own, with one CPU thread a trial. The token cache is built before. In the first round a
third sweep, on two slots, is killed with SIGKILL once a trial has a checkpoint, and its command given again. Printed
are the seconds of each sweep, the ratio of the medians of those that were not killed, and whether every loss, gradient
norm and evaluation of every trial is the same in all of them, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

SMALL = (
    *("model.shape.d_model=64", "model.shape.d_ff=128", "data.max_examples=2000", "training.batch_size=32"),
    *("training.warmup_steps=5", "training.log_every_n_steps=5", "training.checkpoint_every_n_steps=10"),
    *("evaluation.max_examples=50", "evaluation.max_generated_examples=4", "evaluation.max_new_tokens=16"),
    *("hardware=cpu", "hardware.num_threads=1", "tracking=journal_only"),
)
KEPT = ("train/loss", "train/grad_norm", "eval/loss", "eval/rougeL")

Numbers = dict[str, list[tuple[int, dict[str, float]]]]


def start(folder: Path, overrides: list[str]) -> subprocess.Popen[str]:
    """Starts a command."""
    command = [sys.executable, "-m", "recipe_exp", f"output_dir={folder}", *SMALL, *overrides]
    with folder.with_suffix(".log").open("a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, text=True)


def run(folder: Path, overrides: list[str]) -> float:
    """Runs a command and returns its seconds."""
    began = time.perf_counter()
    if start(folder, overrides).wait() != 0:
        sys.exit(folder.with_suffix(".log").read_text())
    return time.perf_counter() - began


def run_with_a_kill(folder: Path, overrides: list[str]) -> float:
    """Kills a sweep once a trial has a checkpoint, gives its command again, and returns the seconds of both."""
    began = time.perf_counter()
    process = start(folder, overrides)
    while process.poll() is None and not list(folder.glob("runs/*/checkpoints/step-*")):
        time.sleep(0.05)
    process.kill()
    process.wait()
    run(folder, overrides)
    return time.perf_counter() - began


def numbers(folder: Path) -> Numbers:
    """Returns the metrics of each trial that do not depend on the clock, by its name."""
    found: Numbers = {}
    for path in folder.glob("runs/*/metrics.jsonl"):
        entries = [json.loads(line) for line in path.read_text().splitlines()]
        kept = [(e["step"], {name: e["metrics"][name] for name in KEPT if name in e["metrics"]}) for e in entries]
        found[path.parent.name.split("-", 3)[3]] = [entry for entry in kept if entry[1]]
    return found


def main() -> None:
    """Runs the rounds and prints what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    steps = [f"training.max_steps={given.steps}", f"evaluation.every_n_steps={max(given.steps // 2, 1)}"]
    seconds: dict[int, list[float]] = {1: [], 2: []}
    results: list[Numbers] = []
    print(f"cores {len(os.sched_getaffinity(0))}, trials 3, steps {given.steps}, rounds {given.rounds}", flush=True)
    with tempfile.TemporaryDirectory() as place:
        cache = f"data.cache_dir={place}/cache"
        run(Path(place, "first"), [cache, "training.max_steps=1", "training.warmup_steps=0", *given.overrides])

        def measure(name: str, slots: int, *, with_a_kill: bool = False) -> None:
            line = ["sweeps=learning_rate", f"hydra.launcher.slots={slots}", cache, *steps, *given.overrides]
            took = (run_with_a_kill if with_a_kill else run)(Path(place, name), line)
            results.append(numbers(Path(place, name)))
            if not with_a_kill:
                seconds[slots].append(took)
            equal = "equal" if results[-1] == results[0] else "DIFFERENT"
            print(
                f"{slots} slots{', killed and given again' if with_a_kill else ''}: {took:.1f} s, {equal}", flush=True
            )

        for number in range(given.rounds):
            for slots in (2, 1) if number % 2 == 0 else (1, 2):
                measure(f"{number}-{slots}", slots)
                if number == 0 and slots == 2:
                    measure("killed", 2, with_a_kill=True)
    num_compared = sum(len(entries) for entries in results[0].values())
    print(f"two slots are {median(seconds[1]) / median(seconds[2]):.2f} times faster; {num_compared} points compared")


if __name__ == "__main__":
    main()
