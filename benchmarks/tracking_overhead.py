"""Measure what the record of a run costs its steps: `tracking_overhead.py [--model NAME] [--steps N] [--log-every N]`.

One training process for each way to keep the record: the journal alone, and an uploader whose tracker is a sqlite
database, hangs, or is down. It is measured in three ways that depend little on what else the machine does:

Alone. A journal and a sqlite store are given 400 logged steps of seven metrics, without any training: the CPU time of
each for one logged step, the uploader's in batches of 20 steps. `--alone` stops there; it takes seconds on any machine.

Counted. The training thread's CPU time inside the journal's callback, and the CPU time of the uploader's process, each
divided by the steps' time. Their sum is the most that the record can lengthen a step: all of it at once only on a
machine with a single core, since the uploader works beside training. What the uploader takes once, to be started and to
open the store, is in a column of its own; steps count from then on.

Compared. Blocks of a few steps are recorded and not recorded in turn (with, without, without, with); without, there is
no journal callback and the uploader is stopped. Neighbouring blocks give one ratio of the training thread's CPU time
(which holds whatever is done in the step, and no waiting for others) and one of the time by the clock; the median
and a 95 % confidence interval from resampled pairs are shown. A first row in which the blocks differ in nothing shows
what is left of both.

Every step is logged unless `--log-every` says otherwise, which is the worst case; by default every tenth is.
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
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from math import fsum
from pathlib import Path
from statistics import fmean, median

_CLOCK = """
import json, os, signal, time
import psutil
from recipe_exp import Callback
from recipe_exp.training.callbacks.journal import JournalCallback
from recipe_exp.training.lifecycle import StopReason

class StepClock(Callback):
    priority = 1000

    def __init__(self):
        self.block = int(os.environ["BLOCK_STEPS"])
        self.warm_up = int(os.environ["WARM_UP_STEPS"])
        self.wanted = int(os.environ["STEPS"])
        self.clock, self.cpu, self.num_steps, self.inside, self.uploader = [], [], 0, 0.0, []

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
        if self.num_steps == 0 and not self.is_settled(trainer):
            return
        number = self.num_steps - self.warm_up
        self.num_steps += 1
        if number < 0:
            return
        if number == 0:
            self.inside = 0.0
            self.uploader.append(self.of_uploaders())
        self.clock.append(time.perf_counter())
        self.cpu.append(time.thread_time())
        block, position = divmod(number, self.block)
        if position == 0 and "SWITCH" in os.environ:
            self.switch(trainer, is_recorded=block % 4 in (0, 3))
        if number == self.wanted:
            trainer.stop(StopReason.EARLY_STOPPING)

    def is_settled(self, trainer):
        # The uploader has sent its first batch, or said that it cannot.
        if "SETTLED" not in os.environ:
            return True
        (journal,) = (each.journal for each in self.all if isinstance(each, JournalCallback))
        sign = journal._folder.path / os.environ["SETTLED"]
        return sign.exists() and sign.stat().st_size > 0

    def on_train_end(self, trainer):
        self.switch(trainer, is_recorded=True)
        self.uploader.append(self.of_uploaders())
        names = ("clock", "cpu", "inside", "uploader")
        with open(os.environ["STEP_TIMES"], "w") as stream:
            json.dump({name: getattr(self, name) for name in names}, stream)

    def of_uploaders(self):
        return sum(sum(each.cpu_times()[:2]) for each in self.uploaders)

    def timed(self, on_log):
        def call(*arguments):
            started = time.thread_time()
            on_log(*arguments)
            self.inside += time.thread_time() - started
        return call

    def switch(self, trainer, is_recorded):
        trainer.callbacks.callbacks = self.all if is_recorded else self.bare
        for uploader in self.uploaders:
            uploader.send_signal(signal.SIGCONT if is_recorded else signal.SIGSTOP)
"""
_NUM_RESAMPLES = 2000
_ALONE_STEPS = 400
_BATCH_STEPS = 20
_METRICS = (
    *("train/loss", "train/learning_rate", "train/grad_norm", "train/epoch", "train/padding_share"),
    *("train/target_tokens_per_second", "train/recipes_per_second"),
)
_GOAL = 1.01
_LAYERS = ("num_layers", "num_decoder_layers")
MODELS: dict[str, dict[str, int]] = {
    "t5_tiny": {},
    "t5_mini": {
        "vocab_size": 8192,
        "d_model": 256,
        "d_kv": 64,
        "d_ff": 512,
        "num_heads": 4,
        **dict.fromkeys(_LAYERS, 4),
    },
    "flan_t5_small": {
        "vocab_size": 32128,
        "d_model": 512,
        "d_kv": 64,
        "d_ff": 1024,
        "num_heads": 6,
        **dict.fromkeys(_LAYERS, 8),
    },
}


@dataclass(frozen=True)
class Arm:
    """One way to keep the record.

    Attributes:
        name: of the row.
        overrides: that choose it.
        settled: file of the run folder that is no longer empty once the uploader has started.
        is_switched: whether blocks with and without it are compared.
    """

    name: str
    overrides: tuple[str, ...]
    settled: str = ""
    is_switched: bool = True


@dataclass(frozen=True)
class Steps:
    """How many steps are done: in a block, before any counts, and counted."""

    block: int
    warm_up: int
    counted: int


@dataclass(frozen=True)
class Measured:
    """One run: seconds of each step by the clock and of the training thread's CPU, and what the record took of CPU.

    Attributes:
        clock: of each step.
        cpu: of each step.
        inside: in the journal's callback, in the steps that were recorded.
        started: of the uploader until the first step that counts.
        sending: of the uploader since.
    """

    clock: list[float]
    cpu: list[float]
    inside: float
    started: float
    sending: float


def arms(hung_port: int, closed_port: int) -> list[Arm]:
    """Return what is compared."""
    return [
        Arm("nothing changes", ("tracking=journal_only",), is_switched=False),
        Arm("journal only", ("tracking=journal_only",)),
        Arm("mlflow, sqlite", (), "uploader.json"),
        Arm("mlflow, server hangs", (f"tracking.uri=http://127.0.0.1:{hung_port}",), "uploader.log"),
        Arm("mlflow, server down", (f"tracking.uri=http://127.0.0.1:{closed_port}",), "uploader.log"),
    ]


@contextmanager
def ports() -> Iterator[tuple[int, int]]:
    """Yield a port that takes connections and never answers, and one that refuses them."""
    with socket.socket() as hung, socket.socket() as closed:
        for each in (hung, closed):
            each.bind(("127.0.0.1", 0))
        hung.listen(1000)
        yield hung.getsockname()[1], closed.getsockname()[1]


def run(arm: Arm, here: Path, options: Sequence[str], plan: Steps) -> Measured:
    """Train in a process of its own."""
    times = here / "times.json"
    command = [sys.executable, "-m", "recipe_exp", *options, *arm.overrides]
    command += ["training.callbacks=[step_clock:StepClock]", f"output_dir={here / 'outputs'}"]
    environment = {**os.environ, "STEP_TIMES": str(times), "OMP_NUM_THREADS": "1"}
    environment |= {"BLOCK_STEPS": str(plan.block), "WARM_UP_STEPS": str(plan.warm_up), "STEPS": str(plan.counted)}
    if arm.is_switched:
        environment["SWITCH"] = "1"
    if arm.settled:
        environment["SETTLED"] = arm.settled
    done = subprocess.run(command, cwd=here.parent, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stdout + done.stderr)
    found = json.loads(times.read_text())
    before, after = found["uploader"]
    clock, cpu = ([later - sooner for sooner, later in pairwise(found[name])] for name in ("clock", "cpu"))
    return Measured(clock, cpu, float(found["inside"]), before, after - before)


def count_alone(folder: Path) -> Iterator[str]:
    """Yield what the journal and then the uploader take of CPU time for one logged step."""
    from recipe_exp.tracking import Journal, RunFolder
    from recipe_exp.tracking.events import MetricPoint
    from recipe_exp.tracking.mlflow_store import MlflowStore
    from recipe_exp.tracking.sender import open_run

    run_folder = RunFolder.create(folder, run_name="alone", command=["train"])
    journal, values = Journal(run_folder), dict.fromkeys(_METRICS, 0.123456789)
    of_journal, of_store = [], []
    for step in range(_ALONE_STEPS):
        started = time.thread_time()
        journal.metrics(step, values)
        of_journal.append(time.thread_time() - started)
    journal.close()
    yield f"alone, CPU time of a logged step: journal {_microseconds(of_journal)}"
    run = open_run(MlflowStore.open(None, "recipes", folder), run_folder)
    for first in range(0, _ALONE_STEPS, _BATCH_STEPS):
        steps = range(first, first + _BATCH_STEPS)
        points = [MetricPoint(name, 0.1, step, float(step)) for step in steps for name in _METRICS]
        started = time.process_time()
        run.log_metrics(points)
        of_store.append((time.process_time() - started) / _BATCH_STEPS)
    yield f"alone, CPU time of a logged step: uploader to sqlite {_microseconds(of_store)}"


def _microseconds(times: Sequence[float]) -> str:
    return f"{1e6 * median(times):.0f} us (mean {1e6 * fmean(times):.0f} us)"


def ratios(steps: Sequence[float], block_steps: int) -> list[float]:
    """Return, for each pair of neighbouring blocks, the time of the recorded one over that of the other."""
    # The first step of a block begins before the change.
    blocks = [steps[start + 1 : start + block_steps] for start in range(0, len(steps), block_steps)]
    whole = [fsum(block) for block in blocks if len(block) == block_steps - 1]
    pairs = [(whole[number], whole[number + 1], number) for number in range(0, len(whole) - 1, 2)]
    return [first / second if number % 4 == 0 else second / first for first, second, number in pairs]


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median and its 95 % confidence interval."""
    chance = random.Random(0)
    resampled = sorted(median(chance.choices(values, k=len(values))) for _ in range(_NUM_RESAMPLES))
    return median(values), resampled[_NUM_RESAMPLES // 40], resampled[-_NUM_RESAMPLES // 40]


def row(arm: Arm, measured: Measured, block_steps: int) -> str:
    """Return a row of the table."""
    step = median(measured.clock)
    # Recorded are half of the steps.
    recorded = fsum(measured.clock) / (2 if arm.is_switched else 1)
    journal, uploader = measured.inside / recorded, measured.sending / recorded
    by_cpu, by_clock = (interval(ratios(steps, block_steps)) for steps in (measured.cpu, measured.clock))
    verdict = "" if not arm.is_switched else "yes" if 1 + journal + uploader <= _GOAL else "no"
    counted = f"{journal:>9.3%}{uploader:>10.3%}{measured.started:>9.1f} s{verdict:>6}"
    compared = "".join(f"  {middle:.4f} ({low:.4f}-{high:.4f})" for middle, low, high in (by_cpu, by_clock))
    return f"{arm.name:<22}{1e3 * step:>9.2f} ms{counted}{compared}"


def measure(parsed: argparse.Namespace, options: Sequence[str], folder: Path) -> None:
    """Print a row for every arm."""
    (folder / "step_clock.py").write_text(_CLOCK)
    counted = f"{'journal':>9}{'uploader':>10}{'its start':>11}{'<= 1 %':>6}"
    print(f"{'':<22}{'step':>12}{counted}  {'CPU time, compared':<24}  by the clock, compared")
    with ports() as (hung_port, closed_port):
        chosen = [arm for arm in arms(hung_port, closed_port) if arm.name in parsed.only or not parsed.only]
        for number, arm in enumerate(chosen):
            here = folder / str(number)
            here.mkdir()
            measured = run(arm, here, options, Steps(parsed.block_steps, parsed.warm_up, parsed.steps))
            print(row(arm, measured, parsed.block_steps), flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(MODELS), default="t5_mini", help="shape of the model")
    parser.add_argument("--steps", type=int, default=240, help="steps of each process that count")
    parser.add_argument("--warm-up", type=int, default=4, help="steps before them, once the uploader has started")
    parser.add_argument("--block-steps", type=int, default=4, help="steps of a block")
    parser.add_argument("--batch-size", type=int, default=8, help="training.batch_size")
    parser.add_argument("--only", nargs="*", default=[], metavar="ROW", help="rows that are measured; default: all")
    parser.add_argument("--log-every", type=int, default=1, help="training.log_every_n_steps")
    parser.add_argument("--alone", action="store_true", help="measure no training")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tracking_overhead-") as folder:
        options = [
            "training.max_steps=1000000",
            *(f"model.shape.{name}={value}" for name, value in MODELS[parsed.model].items()),
            f"data.cache_dir={Path(folder) / 'cache'}",
            *("data.max_examples=400", f"training.batch_size={parsed.batch_size}"),
            *(
                "training.num_epochs=1000000",
                "training.warmup_steps=2",
                f"training.log_every_n_steps={parsed.log_every}",
            ),
            *("training.checkpoint_every_n_steps=null", "evaluation.every_n_steps=null"),
            *("evaluation.max_examples=2", "evaluation.max_generated_examples=1", "evaluation.max_new_tokens=4"),
            *("hardware=cpu", "hardware.num_threads=1", "hardware.num_workers=1", "hardware.micro_batch_tokens=2048"),
        ]
        for counted in count_alone(Path(folder) / "alone"):
            print(counted, flush=True)
        if not parsed.alone:
            measure(parsed, options, Path(folder))


if __name__ == "__main__":
    main()
