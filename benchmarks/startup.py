"""How long it takes until something happens: `startup.py [--rounds 7] [key=value ...]`.

Rows take turns in processes of their own, and each counts from the start of its process:

- `import`: `torch`, `accelerate` and transformers' T5, which every run needs, and nothing else;
- `first step`: `python -m recipe_exp model=t5_tiny` until its first step has been taken, on data that is tokenized
  already, with a tracking database that exists;
- `--help` and `--cfg job`: the whole process.

Each row is run once before the first round, which also leaves the compiled modules that Python reads from then on.

Columns: medians over rounds by the clock and in CPU seconds of the process itself; `beyond import` is the median of the
rounds' differences to the bare import. Words without dashes are overrides for the run, such as `tracking=journal_only`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

_IMPORT = "import torch, accelerate; from transformers import T5ForConditionalGeneration"
# Written where the first step ends; what comes after it is not measured.
_FIRST_STEP = """
import json, os, time
from recipe_exp import Callback

class FirstStep(Callback):
    priority = 1000

    def on_step_end(self, trainer, result):
        if "FIRST_STEP" in os.environ:
            float(result.loss_sum)
            with open(os.environ.pop("FIRST_STEP"), "w") as stream:
                json.dump([time.time(), time.process_time()], stream)
"""
_RUN = (
    *("model=t5_tiny", "training.max_steps=1", "training.warmup_steps=0", "evaluation.every_n_steps=null"),
    *("evaluation.max_examples=2", "evaluation.max_generated_examples=1", "evaluation.max_new_tokens=2"),
    "training.callbacks=[first_step:FirstStep]",
)


@dataclass(frozen=True)
class Taken:
    """Seconds since the start of a process, by the clock and of its own CPU time."""

    wall: float
    cpu: float

    def __sub__(self, other: Taken) -> Taken:
        return Taken(self.wall - other.wall, self.cpu - other.cpu)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory(prefix="startup-") as folder:
        (Path(folder) / "first_step.py").write_text(_FIRST_STEP, encoding="utf-8")
        rows: dict[str, Callable[[], Taken]] = {
            "import": lambda: whole(["-c", _IMPORT], folder),
            "first step": lambda: first_step([*_RUN, *options.overrides], folder),
            "--help": lambda: whole(["-m", "recipe_exp", "--help"], folder),
            "--cfg job": lambda: whole(["-m", "recipe_exp", "--cfg", "job"], folder),
        }
        rounds = [{name: row() for name, row in rows.items()} for _ in range(options.rounds + 1)]
        found = {name: [taken[name] for taken in rounds[1:]] for name in rows}
    print(f"{'':<12}{'wall':>9}{'CPU':>9}{'beyond import':>22}")
    for name, each in found.items():
        beyond = ""
        if name == "first step":
            rest = [mine - bare for mine, bare in zip(each, found["import"], strict=True)]
            beyond = f"{median(it.wall for it in rest):.2f} s, CPU {median(it.cpu for it in rest):.2f} s"
        print(f"{name:<12}{median(it.wall for it in each):>7.2f} s{median(it.cpu for it in each):>7.2f} s{beyond:>22}")


def whole(arguments: list[str], folder: str) -> Taken:
    """Returns what a process took from its start to its end."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    start(arguments, folder)
    after, end = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    return Taken(end - begin, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def first_step(overrides: list[str], folder: str) -> Taken:
    """Returns what a run took from the start of its process to the end of its first step."""
    times = Path(folder) / "times.json"
    begin = time.time()
    start(["-m", "recipe_exp", *overrides], folder, FIRST_STEP=str(times))
    moment, cpu = json.loads(times.read_text(encoding="utf-8"))
    return Taken(moment - begin, cpu)


def start(arguments: list[str], folder: str, **variables: str) -> None:
    """Runs Python to its end in a folder of its own.

    Raises:
        SystemExit: if it fails, with what it said.
    """
    # Of its own, so that what a container forbids or an earlier run has left changes no figure.
    environment = {**os.environ, **variables, "PYTHONPYCACHEPREFIX": str(Path(folder) / "bytecode")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)


if __name__ == "__main__":
    main()
