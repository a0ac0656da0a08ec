"""Sweeps of real processes in which a stub stands in for the training task."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

FINDER = """
import importlib.util, sys
from pathlib import Path

class StubFinder:
    def find_spec(self, name, path=None, target=None):
        if name == "recipe_exp.tasks.train":
            return importlib.util.spec_from_file_location(name, Path(__file__).with_name("stub_train.py"))

sys.meta_path.insert(0, StubFinder())
"""

# seed=13 fails, 14 runs out of memory and 15 is killed, each until the file `mended` is there.
# training.max_steps is the number of steps of 0.05 s.
TASK = """
import os, sys, time
from pathlib import Path
from recipe_exp.errors import DataError, TrainingError
from recipe_exp.tracking import Journal, RunFolder, find_run, start_uploader
from recipe_exp.training.lifecycle import Lifecycle

def run(config):
    parent = os.environ.get("RECIPE_EXP_PARENT_RUN_ID")
    name = config.run_name or "unnamed"
    trial = os.environ["RECIPE_EXP_TRIAL"]
    if config.resume:
        folder = find_run(Path(config.output_dir), config.resume)
    else:
        folder = RunFolder.create(
            Path(config.output_dir), run_name=name, command=sys.argv, parent_run_id=parent, trial=trial
        )
    config.to_yaml(folder.config_path)
    tracking = config.tracking
    with folder.lock(), Lifecycle() as lifecycle:
        journal = Journal(folder)
        uploader = start_uploader(folder, tracking.uri, tracking.experiment, False) if tracking.enabled else None
        journal.status("running")
        began = time.time()
        record = folder.read_record()
        folder.update_record(
            executions=[*record.get("executions", []), config.hardware.micro_batch_tokens],
            machinery={"micro_batch_tokens": 1024},
            total_steps=config.training.max_steps,
        )
        if not Path("mended").exists():
            if config.seed == 13:
                raise DataError("recipes.jsonl: empty; give another file")
            if config.seed == 14:
                raise TrainingError("step 1: out of memory in micro-batches of 1,024 tokens; add training=lora")
            if config.seed == 15:
                os.kill(os.getpid(), 9)
        first = int(record.get("step") or 0)
        step = first
        for step in range(first + 1, config.training.max_steps + 1):
            print("step", step)
            journal.metrics(step, {"eval/loss": config.training.learning_rate + 1.0 / step})
            time.sleep(0.05)
            if lifecycle.should_stop():
                break
        best = {"metric": "eval/loss", "value": config.training.learning_rate, "step": step}
        folder.update_record(step=step, best=best, began=began, ended=time.time(),
                             num_threads=config.hardware.num_threads, gpus=os.environ.get("CUDA_VISIBLE_DEVICES"))
        (folder.checkpoints_path / f"step-{step:08}").mkdir(parents=True, exist_ok=True)
        journal.status(lifecycle.reason.status)
        journal.close()
        if uploader is not None:
            uploader.finish(60.0)
    return lifecycle.reason.exit_code
"""


class Bench:
    """A folder in which sweeps are started from the command line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        stub = folder / "stub"
        stub.mkdir()
        (stub / "sitecustomize.py").write_text(FINDER)
        (stub / "stub_train.py").write_text(TASK)
        self.environment = {
            **{key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"},
            "PYTHONPATH": os.pathsep.join([str(stub), str(REPOSITORY)]),
            "RECIPE_EXP_CONFIG_DIR": str(folder / "none"),
            "OMP_NUM_THREADS": "1",
        }

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Starts `python -m recipe_exp ARGUMENTS`."""
        return subprocess.Popen(
            [sys.executable, "-m", "recipe_exp", *arguments],
            cwd=self.folder,
            env={**self.environment, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs `python -m recipe_exp ARGUMENTS` to its end."""
        process = self.start(*arguments, **variables)
        output, errors = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def ledger(self) -> list[dict[str, Any]]:
        """The events of the sweep's ledger."""
        return [json.loads(line) for line in (self.sweep / "ledger.jsonl").read_text().splitlines()]

    @property
    def sweep(self) -> Path:
        """The folder of the only sweep."""
        (folder,) = (self.folder / "outputs" / "sweeps").glob("*/")
        return folder

    def summary(self) -> dict[str, Any]:
        """The sweep's `sweep.json`."""
        content: dict[str, Any] = json.loads((self.sweep / "sweep.json").read_text())
        return content

    def record(self) -> dict[str, Any]:
        """The sweep's `run.json`."""
        content: dict[str, Any] = json.loads((self.sweep / "run.json").read_text())
        return content

    def children(self) -> list[dict[str, Any]]:
        """The `run.json` of every trial, in the order of their names."""
        paths = (self.folder / "outputs" / "runs").glob("*/run.json")
        return sorted((json.loads(path.read_text()) for path in paths), key=lambda record: str(record["run_name"]))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """An empty folder to start sweeps in."""
    return Bench(tmp_path)


@pytest.fixture(scope="module")
def make_bench(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Bench]:
    """Makes folders for sweeps that several tests look at."""
    return lambda: Bench(tmp_path_factory.mktemp("bench"))
