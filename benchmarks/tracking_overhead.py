"""Measure what the record of a run costs its steps: `tracking_overhead.py [--rounds N] [--steps N] [--model-width N]`.

The same training runs in fresh processes, in rounds, each round in another order: without a journal, with the journal
alone, and with an uploader whose tracker is a sqlite database, hangs, or is down. Every step is logged, which is the
worst case. A step lasts from its beginning to that of the next, so whatever hangs on it counts.

Columns: the median over rounds of a process's median step, and its ratio to the run without a journal, round by round,
with the smallest and largest of the rounds; the same for the mean step, which includes what disturbs a few steps only;
and the CPU time of the training process per step. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median

_CLOCK = """
import json, os, time
from recipe_exp import Callback
from recipe_exp.training.callbacks.journal import JournalCallback

class StepClock(Callback):
    priority = 1000

    def __init__(self):
        self.wall, self.cpu = [], []

    def on_step_begin(self, trainer):
        self.wall.append(time.perf_counter())
        self.cpu.append(time.process_time())

    def on_train_end(self, trainer):
        with open(os.environ["STEP_TIMES"], "w") as stream:
            json.dump({"wall": self.wall, "cpu": self.cpu}, stream)

class WithoutJournal(StepClock):
    def on_train_begin(self, trainer):
        callbacks = trainer.callbacks
        callbacks.callbacks = [each for each in callbacks.callbacks if not isinstance(each, JournalCallback)]
"""
_NUM_WARM_UP_STEPS = 20


@dataclass(frozen=True)
class Times:
    """Seconds of the steps of one process, and CPU seconds of them."""

    median: float
    mean: float
    cpu: float


@dataclass(frozen=True)
class Arm:
    """One way to keep the record."""

    name: str
    callback: str
    overrides: tuple[str, ...]


def arms(hung_port: int, closed_port: int) -> list[Arm]:
    """Return the baseline and everything that is compared with it."""
    return [
        Arm("no journal", "WithoutJournal", ("tracking=journal_only",)),
        Arm("journal only", "StepClock", ("tracking=journal_only",)),
        Arm("mlflow, sqlite", "StepClock", ()),
        Arm("mlflow, server hangs", "StepClock", (f"tracking.uri=http://127.0.0.1:{hung_port}",)),
        Arm("mlflow, server down", "StepClock", (f"tracking.uri=http://127.0.0.1:{closed_port}",)),
    ]


@contextmanager
def ports() -> Iterator[tuple[int, int]]:
    """Yield a port that takes connections and never answers, and one that refuses them."""
    with socket.socket() as hung, socket.socket() as closed:
        for each in (hung, closed):
            each.bind(("127.0.0.1", 0))
        hung.listen(1000)
        yield hung.getsockname()[1], closed.getsockname()[1]


def run(arm: Arm, here: Path, options: Sequence[str]) -> Times:
    """Train in a process of its own and return how long its steps took."""
    times = here / "times.json"
    command = [sys.executable, "-m", "recipe_exp", *options, *arm.overrides]
    command += [f"training.callbacks=[step_clock:{arm.callback}]", f"output_dir={here / 'outputs'}"]
    environment = {**os.environ, "STEP_TIMES": str(times), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=here.parent, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stdout + done.stderr)
    stored = json.loads(times.read_text())
    wall, cpu = (_differences(stored[name])[_NUM_WARM_UP_STEPS:] for name in ("wall", "cpu"))
    return Times(median(wall), fmean(wall), fmean(cpu))


def measure(num_rounds: int, options: Sequence[str], folder: Path) -> dict[str, list[Times]]:
    """Return the times of every arm, one entry a round."""
    (folder / "step_clock.py").write_text(_CLOCK)
    found: dict[str, list[Times]] = {}
    with ports() as (hung_port, closed_port):
        order = arms(hung_port, closed_port)
        for number in range(num_rounds):
            for arm in order[number % len(order) :] + order[: number % len(order)]:
                here = folder / f"{number}-{order.index(arm)}"
                here.mkdir()
                found.setdefault(arm.name, []).append(run(arm, here, options))
        return {arm.name: found[arm.name] for arm in order}


def table(found: dict[str, list[Times]]) -> list[str]:
    """Return the lines of the table."""
    (_, baseline), *_ = found.items()
    lines = [f"{'':<22}{'median step':>12}{'ratio':>8}{'of rounds':>18}{'mean step':>12}{'ratio':>8}{'CPU':>10}"]
    for name, rounds in found.items():
        medians = [each.median / base.median for each, base in zip(rounds, baseline, strict=True)]
        means = [each.mean / base.mean for each, base in zip(rounds, baseline, strict=True)]
        lines.append(
            f"{name:<22}{1e3 * median(each.median for each in rounds):>9.2f} ms{median(medians):>8.4f}"
            f"{min(medians):>9.3f} - {max(medians):.3f} {1e3 * median(each.mean for each in rounds):>9.2f} ms"
            f"{median(means):>8.4f}{1e3 * median(each.cpu for each in rounds):>7.2f} ms"
        )
    return lines


def _differences(moments: Sequence[float]) -> list[float]:
    return [after - before for before, after in pairwise(moments)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="processes of each kind")
    parser.add_argument("--steps", type=int, default=600, help="steps of each process")
    parser.add_argument("--model-width", type=int, default=32, help="model.shape.d_model; a wider one has longer steps")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tracking_overhead-") as folder:
        options = [
            f"training.max_steps={parsed.steps}",
            f"model.shape.d_model={parsed.model_width}",
            f"data.cache_dir={Path(folder) / 'cache'}",
            *("data.max_examples=400", "data.max_target_tokens=64", "training.batch_size=4"),
            *("training.num_epochs=1000", "training.warmup_steps=2", "training.log_every_n_steps=1"),
            *("training.checkpoint_every_n_steps=null", "evaluation.every_n_steps=null"),
            *("evaluation.max_examples=2", "evaluation.max_generated_examples=1", "evaluation.max_new_tokens=4"),
            *("hardware=cpu", "hardware.num_threads=1", "hardware.num_workers=1", "hardware.micro_batch_tokens=2048"),
        ]
        print("\n".join(table(measure(parsed.rounds, options, Path(folder)))))


if __name__ == "__main__":
    main()
