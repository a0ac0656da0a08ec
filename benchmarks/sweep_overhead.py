"""Measure what a sweep costs beside its trials: `sweep_overhead.py [--trials N] [--slots N] [--alone N]`.

A stub stands in for the training task: it makes a run folder, logs ten steps and sends its journal to MLflow as a real
run does. Commands of one trial are timed without a sweep, as many at once as there are slots, since they share the
cores (the median of `--alone`); then a sweep of many. What a slot takes for each trial beyond that is the overhead. In
the middle the sweep's own process is killed and the command given again. Printed are the overhead, the resident memory
of the sweep's process at 10 %, half and 90 %, and whether each trial was run to its end once.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median

import psutil

FINDER = """
import importlib.util, sys
from pathlib import Path

class StubFinder:
    def find_spec(self, name, path=None, target=None):
        if name == "recipe_exp.tasks.train":
            return importlib.util.spec_from_file_location(name, Path(__file__).with_name("stub_train.py"))

sys.meta_path.insert(0, StubFinder())
"""
TASK = """
import os, sys
from pathlib import Path
from recipe_exp.tracking import Journal, RunFolder, find_run, start_uploader

def run(config):
    environment, output_dir, tracking = os.environ, Path(config.output_dir), config.tracking
    if config.resume:
        folder = find_run(output_dir, config.resume)
    else:
        folder = RunFolder.create(
            output_dir, run_name=config.run_name or "run", command=sys.argv,
            parent_run_id=environment.get("RECIPE_EXP_PARENT_RUN_ID"), trial=environment.get("RECIPE_EXP_TRIAL"),
        )
    config.to_yaml(folder.config_path)
    with folder.lock():
        journal = Journal(folder)
        uploader = start_uploader(folder, tracking.uri, tracking.experiment, False) if tracking.enabled else None
        journal.status("running")
        journal.params({"seed": config.seed})
        for step in range(1, 11):
            journal.metrics(step, {"eval/loss": 1.0 / step})
        folder.update_record(step=10, best={"metric": "eval/loss", "value": 0.1, "step": 10})
        journal.status("finished")
        journal.close()
        if uploader is not None:
            uploader.finish(60.0)
    return 0
"""


class Stub:
    """A folder in which commands find the stub instead of the training task."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        stub = folder / "stub"
        stub.mkdir()
        (stub / "sitecustomize.py").write_text(FINDER)
        (stub / "stub_train.py").write_text(TASK)
        package = Path(__file__).resolve().parents[1]
        paths = os.pathsep.join([str(stub), str(package)])
        self.environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}

    def start(self, output_dir: str, *overrides: str) -> subprocess.Popen[bytes]:
        """Starts a command."""
        command = [sys.executable, "-m", "recipe_exp", f"output_dir={output_dir}", "hardware=cpu", *overrides]
        # A pipe that nobody reads would hold the sweep up.
        with (self.folder / f"{output_dir}.log").open("ab") as log:
            return subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=log, stderr=log)

    def seconds(self, output_dir: str, num_at_once: int = 1) -> float:
        """Runs a command, as many times at once as asked, and returns the seconds until all have ended."""
        began = time.perf_counter()
        processes = [self.start(output_dir) for _ in range(num_at_once)]
        exit_codes = [process.wait() for process in processes]
        if any(exit_codes):
            sys.exit((self.folder / f"{output_dir}.log").read_text())
        return time.perf_counter() - began

    def ends(self, output_dir: str) -> Counter[str]:
        """Returns how often each trial ended as done."""
        found: Counter[str] = Counter()
        for path in (self.folder / output_dir / "sweeps").glob("*/ledger.jsonl"):
            events = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
            found.update(event["key"] for event in events if event["event"] == "end" and event["state"] == "done")
        return found


def watch(stub: Stub, process: subprocess.Popen[bytes], until: int, total: int) -> dict[str, float]:
    """Waits until a number of trials have ended and returns the process's memory in MiB on the way."""
    memory: dict[str, float] = {}
    began = time.monotonic()
    while process.poll() is None:
        # A process that has only begun is small, and what it goes on with is half done.
        started_for = time.monotonic() - began
        done = len(stub.ends("sweep"))
        name = next((name for name, at in (("90 %", 0.9), ("half", 0.5), ("10 %", 0.1)) if done >= at * total), None)
        if name is not None and name not in memory and started_for > 5.0:
            memory[name] = psutil.Process(process.pid).memory_info().rss / 2**20
        if done >= until:
            break
        time.sleep(0.5)
    return memory


def main() -> None:
    """Runs the measurement and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--alone", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        stub = Stub(Path(place))
        stub.seconds("alone")  # makes the tracker's database
        alone = median(stub.seconds("alone", given.slots) for _ in range(given.alone))
        stub.seconds("sweep")
        seeds = f"seed=range({given.trials})"
        line = ["-m", seeds, f"hydra.launcher.slots={given.slots}"]
        began = time.perf_counter()
        process = stub.start("sweep", *line)
        before = watch(stub, process, given.trials // 2, given.trials)
        first = time.perf_counter() - began
        process.kill()
        process.wait()
        done = len(stub.ends("sweep"))
        began = time.perf_counter()
        process = stub.start("sweep", *line)
        after = watch(stub, process, given.trials, given.trials)
        exit_code = process.wait()
        if exit_code:
            sys.exit((stub.folder / "sweep.log").read_text())
        second = time.perf_counter() - began
        ends = stub.ends("sweep")
    each = (first + second) * given.slots / given.trials
    print(f"trials {given.trials}, slots {given.slots}, cores {len(os.sched_getaffinity(0))}")
    print(f"a trial without a sweep {alone:6.2f} s, {given.slots} at once")
    print(f"a trial in the sweep    {each:6.2f} s of its slot, so {each - alone:+.2f} s of overhead")
    print(f"memory before the kill  {', '.join(f'{name} {size:.0f} MiB' for name, size in before.items())}")
    print(f"memory after it         {', '.join(f'{name} {size:.0f} MiB' for name, size in after.items())}")
    print(f"killed after {done} trials; the same command again ends with {exit_code}")
    print(f"trials that ended once  {sum(count == 1 for count in ends.values())} of {given.trials}")


if __name__ == "__main__":
    main()
