"""Measure what the record of a run costs its steps: `tracking_overhead.py [--rounds N] [--blocks N]`.

The same training runs in fresh processes, in rounds, each round in another order: with the journal alone, and with an
uploader whose tracker is a sqlite database, hangs, or is down. Every step is logged unless `--log-every` says
otherwise, which is the worst case, and the uploader starts with the run, so its imports count.

Inside each process short blocks of steps are recorded and not recorded in turn (with, without, without, with): without,
there is no journal callback and the uploader is stopped, so what it has to do falls into the blocks with it. Each pair
of neighbouring blocks gives one ratio. That cancels what else the machine does, and what differs between processes;
a first row that changes nothing between blocks shows what is left of both. A step lasts from its beginning to that of
the next, so whatever hangs on it counts.

Columns: the median step without the record; the share of a step's time that training itself spends in the journal's
callback, by the clock; the median of the ratios of median steps; the ratio of the whole time, which holds what disturbs
few steps too; both with a 95 % confidence interval from resampled pairs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from math import fsum
from pathlib import Path
from statistics import median

_CLOCK = """
import json, os, signal, time
import psutil
from recipe_exp import Callback
from recipe_exp.training.callbacks.journal import JournalCallback

class StepClock(Callback):
    priority = 1000

    def __init__(self):
        self.block = int(os.environ["BLOCK_STEPS"])
        self.moments, self.num_steps, self.inside = [], 0, 0.0

    def on_train_begin(self, trainer):
        self.all = trainer.callbacks.callbacks
        self.bare = [each for each in self.all if not isinstance(each, JournalCallback)]
        for each in self.all:
            if isinstance(each, JournalCallback):
                each.on_log = self.timed(each.on_log)
        self.uploaders = [
            child for child in psutil.Process().children() if "recipe_exp.tracking.uploader" in child.cmdline()
        ]

    def on_step_begin(self, trainer):
        self.moments.append(time.perf_counter())
        number, position = divmod(self.num_steps, self.block)
        self.num_steps += 1
        if position == 0 and "SWITCH" in os.environ:
            self.switch(trainer, is_recorded=number % 4 in (0, 3))

    def on_train_end(self, trainer):
        self.switch(trainer, is_recorded=True)
        with open(os.environ["STEP_TIMES"], "w") as stream:
            json.dump({"moments": self.moments, "inside": self.inside}, stream)

    def timed(self, on_log):
        def call(*arguments):
            started = time.perf_counter()
            on_log(*arguments)
            self.inside += time.perf_counter() - started
        return call

    def switch(self, trainer, is_recorded):
        trainer.callbacks.callbacks = self.all if is_recorded else self.bare
        for uploader in self.uploaders:
            uploader.send_signal(signal.SIGCONT if is_recorded else signal.SIGSTOP)
"""
_NUM_RESAMPLES = 2000


@dataclass(frozen=True)
class Arm:
    """One way to keep the record."""

    name: str
    overrides: tuple[str, ...]
    is_switched: bool = True


@dataclass
class Pairs:
    """Neighbouring blocks of all rounds, with the record and without: (median step, whole time) of each."""

    recorded: list[tuple[float, float]] = field(default_factory=list)
    bare: list[tuple[float, float]] = field(default_factory=list)
    inside: float = 0.0

    def of_medians(self, chosen: Sequence[int]) -> float:
        """Return the median ratio of median steps over the chosen pairs."""
        return median(self.recorded[number][0] / self.bare[number][0] for number in chosen)

    def of_times(self, chosen: Sequence[int]) -> float:
        """Return the ratio of the whole time over the chosen pairs."""
        return fsum(self.recorded[number][1] for number in chosen) / fsum(self.bare[number][1] for number in chosen)


def arms(hung_port: int, closed_port: int) -> list[Arm]:
    """Return what is compared."""
    return [
        Arm("nothing changes", ("tracking=journal_only",), is_switched=False),
        Arm("journal only", ("tracking=journal_only",)),
        Arm("mlflow, sqlite", ()),
        Arm("mlflow, server hangs", (f"tracking.uri=http://127.0.0.1:{hung_port}",)),
        Arm("mlflow, server down", (f"tracking.uri=http://127.0.0.1:{closed_port}",)),
    ]


@contextmanager
def ports() -> Iterator[tuple[int, int]]:
    """Yield a port that takes connections and never answers, and one that refuses them."""
    with socket.socket() as hung, socket.socket() as closed:
        for each in (hung, closed):
            each.bind(("127.0.0.1", 0))
        hung.listen(1000)
        yield hung.getsockname()[1], closed.getsockname()[1]


def run(arm: Arm, here: Path, options: Sequence[str], block_steps: int) -> tuple[list[float], float]:
    """Train in a process of its own and return how long its steps took, and all calls of the journal, in seconds."""
    times = here / "times.json"
    command = [sys.executable, "-m", "recipe_exp", *options, *arm.overrides]
    command += ["training.callbacks=[step_clock:StepClock]", f"output_dir={here / 'outputs'}"]
    environment = {**os.environ, "STEP_TIMES": str(times), "BLOCK_STEPS": str(block_steps), "OMP_NUM_THREADS": "1"}
    if arm.is_switched:
        environment["SWITCH"] = "1"
    done = subprocess.run(command, cwd=here.parent, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stdout + done.stderr)
    found = json.loads(times.read_text())
    return [after - before for before, after in pairwise(found["moments"])], float(found["inside"])


def add_pairs(pairs: Pairs, steps: Sequence[float], block_steps: int) -> None:
    """Compare each block with the record with the one without it that lies beside it."""
    # The first step of a block begins before the change.
    blocks = [steps[start + 1 : start + block_steps] for start in range(0, len(steps), block_steps)]
    whole = [block for block in blocks if len(block) == block_steps - 1]
    for number in range(0, len(whole) - 1, 2):
        first, second = whole[number], whole[number + 1]
        recorded, bare = (first, second) if number % 4 == 0 else (second, first)
        pairs.recorded.append((median(recorded), fsum(recorded)))
        pairs.bare.append((median(bare), fsum(bare)))


def measure(num_rounds: int, block_steps: int, options: Sequence[str], folder: Path) -> dict[str, Pairs]:
    """Return the pairs of every arm."""
    (folder / "step_clock.py").write_text(_CLOCK)
    with ports() as (hung_port, closed_port):
        order = arms(hung_port, closed_port)
        found = {arm.name: Pairs() for arm in order}
        for number in range(num_rounds):
            for arm in order[number % len(order) :] + order[: number % len(order)]:
                here = folder / f"{number}-{order.index(arm)}"
                here.mkdir()
                steps, inside = run(arm, here, options, block_steps)
                add_pairs(found[arm.name], steps, block_steps)
                found[arm.name].inside += inside if arm.is_switched else 0.0
    return found


def table(found: dict[str, Pairs]) -> list[str]:
    """Return the lines of the table."""
    lines = [f"{'':<22}{'pairs':>6}{'step':>11}{'journal':>10}{'median step':>26}{'whole time':>26}"]
    for name, pairs in found.items():
        step = 1e3 * median(each for each, _ in pairs.bare)
        ratios = "".join(f"{_interval(of, len(pairs.bare)):>26}" for of in (pairs.of_medians, pairs.of_times))
        share = f"{pairs.inside / fsum(time for _, time in pairs.recorded):.3%}" if pairs.inside else ""
        lines.append(f"{name:<22}{len(pairs.bare):>6}{step:>8.2f} ms{share:>10}{ratios}")
    return lines


def _interval(ratio: Callable[[Sequence[int]], float], num_pairs: int) -> str:
    chance, every = random.Random(0), range(num_pairs)
    resampled = sorted(ratio(chance.choices(every, k=num_pairs)) for _ in range(_NUM_RESAMPLES))
    low, high = resampled[_NUM_RESAMPLES // 40], resampled[-_NUM_RESAMPLES // 40]
    return f"{ratio(every):.4f} ({low:.4f}-{high:.4f})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="processes of each kind")
    parser.add_argument("--blocks", type=int, default=300, help="blocks of each process")
    parser.add_argument("--block-steps", type=int, default=10, help="steps of a block")
    parser.add_argument("--model-width", type=int, default=32, help="model.shape.d_model; a wider one has longer steps")
    parser.add_argument("--log-every", type=int, default=1, help="training.log_every_n_steps")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tracking_overhead-") as folder:
        options = [
            f"training.max_steps={parsed.blocks * parsed.block_steps + 1}",
            f"model.shape.d_model={parsed.model_width}",
            f"data.cache_dir={Path(folder) / 'cache'}",
            *("data.max_examples=400", "data.max_target_tokens=64", "training.batch_size=4"),
            *("training.num_epochs=1000", "training.warmup_steps=2"),
            f"training.log_every_n_steps={parsed.log_every}",
            *("training.checkpoint_every_n_steps=null", "evaluation.every_n_steps=null"),
            *("evaluation.max_examples=2", "evaluation.max_generated_examples=1", "evaluation.max_new_tokens=4"),
            *("hardware=cpu", "hardware.num_threads=1", "hardware.num_workers=1", "hardware.micro_batch_tokens=2048"),
        ]
        print("\n".join(table(measure(parsed.rounds, parsed.block_steps, options, Path(folder)))))


if __name__ == "__main__":
    main()
