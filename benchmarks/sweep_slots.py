"""Measure what slots gain: `sweep_slots.py [--rounds N] [--steps N] [KEY=VALUE ...]`.

The sweep `sweeps=learning_rate` of a tiny model runs on one slot and on two, in rounds, each round in another order,
every sweep in a folder of its own, with one CPU thread a trial. The token cache is built before. Printed are the median
seconds of a whole sweep and their ratio, and whether every metric of every trial is the same, bit for bit.
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
    *("training.warmup_steps=5", "evaluation.max_examples=50", "evaluation.max_generated_examples=4"),
    *("evaluation.max_new_tokens=16", "hardware=cpu", "hardware.num_threads=1", "tracking=journal_only"),
)


def run(folder: Path, overrides: list[str]) -> float:
    """Runs a command and returns its seconds."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "recipe_exp", f"output_dir={folder}", *SMALL, *overrides]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stdout + done.stderr)
    return time.perf_counter() - began


def numbers(folder: Path) -> dict[str, list[tuple[int, dict[str, float]]]]:
    """Returns the metrics of each trial that do not depend on the clock."""
    found = {}
    for path in folder.glob("runs/*/metrics.jsonl"):
        entries = [json.loads(line) for line in path.read_text().splitlines()]
        kept = ("train/loss", "train/grad_norm", "eval/loss", "eval/rougeL")
        metrics = [
            (entry["step"], {name: value for name, value in entry["metrics"].items() if name in kept})
            for entry in entries
        ]
        found[path.parent.name.split("-", 3)[3]] = [entry for entry in metrics if entry[1]]
    return found


def main() -> None:
    """Runs the rounds and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    steps = [f"training.max_steps={given.steps}", f"evaluation.every_n_steps={max(given.steps // 2, 1)}"]
    seconds: dict[int, list[float]] = {1: [], 2: []}
    results = []
    with tempfile.TemporaryDirectory() as place:
        cache = f"data.cache_dir={place}/cache"
        run(Path(place, "first"), [cache, "training.max_steps=1", "training.warmup_steps=0", *given.overrides])
        for number in range(given.rounds):
            for slots in (1, 2) if number % 2 == 0 else (2, 1):
                folder = Path(place, f"{number}-{slots}")
                line = ["sweeps=learning_rate", f"hydra.launcher.slots={slots}", cache, *steps, *given.overrides]
                seconds[slots].append(run(folder, line))
                results.append(numbers(folder))
    ratio = median(one / two for one, two in zip(seconds[1], seconds[2], strict=True))
    print(f"cores {len(os.sched_getaffinity(0))}, trials 3, steps {given.steps}, rounds {given.rounds}")
    print(f"one slot   {median(seconds[1]):7.1f} s")
    print(f"two slots  {median(seconds[2]):7.1f} s   {ratio:.2f} times faster")
    print(f"numbers    {'equal, bit for bit' if all(result == results[0] for result in results) else 'DIFFERENT'}")


if __name__ == "__main__":
    main()
