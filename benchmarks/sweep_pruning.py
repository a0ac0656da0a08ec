"""Measure what pruning saves in real training: `sweep_pruning.py [--trials N] [--steps N] [--slots N] [KEY=VALUE ...]`.

A tiny T5 is trained on generated recipes. Learning rate and batch size are searched three times: at random; at random
with the median pruner, which draws the very same trials; and by TPE with the median pruner. Printed are the steps of
all trials, the share that was saved, and the best trial.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

SMALL = (
    *("model.shape.d_model=64", "model.shape.d_ff=128", "data.max_examples=2000", "training.warmup_steps=5"),
    *("evaluation.max_examples=50", "evaluation.max_generated_examples=2", "evaluation.max_new_tokens=8"),
    *("hardware=cpu", "hardware.num_threads=1", "tracking=journal_only"),
)
SPACE = ("training.learning_rate=tag(log,interval(1e-5,3e-2))", "training.batch_size=choice(8,16,32)")


def search(folder: Path, overrides: list[str]) -> list[dict[str, object]]:
    """Runs a search and returns what `sweep.json` says of its trials."""
    command = [sys.executable, "-m", "recipe_exp", "-m", *SPACE, *SMALL, f"output_dir={folder}", *overrides]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stdout + done.stderr)
    (path,) = folder.glob("sweeps/*/sweep.json")
    trials: list[dict[str, object]] = json.loads(path.read_text())["trials"]
    return trials


def main() -> None:
    """Runs the three searches and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    common = [
        *(f"training.max_steps={given.steps}", f"evaluation.every_n_steps={max(given.steps // 10, 1)}"),
        *(f"sweep.num_trials={given.trials}", f"hydra.launcher.slots={given.slots}", *given.overrides),
    ]
    print(f"{given.trials} trials of {given.steps} steps, {given.slots} at once")
    print("search  pruner  steps  saved  pruned  best eval/loss  with")
    for name, pruner in (("random", "none"), ("random", "median"), ("tpe", "median")):
        with tempfile.TemporaryDirectory() as place:
            settings = [f"sweep.search={name}", f"sweep.pruner={pruner}", f"data.cache_dir={place}/cache"]
            startup = [] if pruner == "none" else ["sweep.pruner_startup_trials=3"]
            trials = search(Path(place, "out"), [*common, *settings, *startup])
        steps = sum(int(str(trial["step"] or 0)) for trial in trials)
        ranked = [trial for trial in trials if isinstance(trial["best"], dict) and trial["state"] == "done"]
        best = min(ranked, key=lambda trial: trial["best"]["value"])  # type: ignore[index]
        saved = 1.0 - steps / (given.trials * given.steps)
        num_pruned = sum(trial["state"] == "pruned" for trial in trials)
        value = best["best"]["value"]  # type: ignore[index]
        varying = " ".join(f"{key}={text}" for key, text in dict(best["varying"]).items())  # type: ignore[call-overload]
        print(f"{name:<7} {pruner:<7} {steps:>5} {saved:>6.0%} {num_pruned:>7} {value:>15.5f}  {varying}", flush=True)


if __name__ == "__main__":
    main()
