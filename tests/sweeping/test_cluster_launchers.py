"""Sweeps whose trials are jobs: submitit's executor of this machine and a local Ray stand in for clusters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from recipe_exp.config.launchers import RayTasks, SubmititSlurmJobs
from recipe_exp.errors import ConfigError, SweepError
from recipe_exp.sweeping import launcher
from recipe_exp.sweeping.executors import Order
from recipe_exp.sweeping.job import End, JobFolder
from recipe_exp.sweeping.launcher import run_sweep
from recipe_exp.sweeping.ledger import Ledger, Planned, Started
from recipe_exp.sweeping.presence import Presence
from recipe_exp.sweeping.remote import RemoteProcess
from recipe_exp.sweeping.submitit_jobs import SubmititCluster, common_parameters, slurm_parameters

pytestmark = pytest.mark.timeout(1500)
LAUNCHERS = ("submitit_local", "ray")
LINE = ("tracking=journal_only", "training.warmup_steps=1", "hydra.launcher.slots=2")
# A local Ray would otherwise leave a file in the home folder.
ENVIRONMENT = {"RAY_AUTH_MODE": "disabled"}


def start(bench: Any, name: str, *arguments: str) -> subprocess.Popen[str]:
    process: subprocess.Popen[str] = bench.start("-m", f"hydra/launcher={name}", *arguments, *LINE, **ENVIRONMENT)
    return process


def run(bench: Any, name: str, *arguments: str) -> tuple[int, str]:
    process = start(bench, name, *arguments)
    output, errors = process.communicate(timeout=600)
    return process.returncode, output + errors


def num_training(bench: Any) -> int:
    """How many trials have printed a step."""
    logs = Path(bench.folder).glob("outputs/sweeps/*/trial-*.log")
    return sum("step " in log.read_text() for log in logs)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 400.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def states(bench: Any) -> list[str]:
    return [trial["state"] for trial in bench.summary()["trials"]]


@pytest.mark.long
@pytest.mark.parametrize("name", LAUNCHERS)
def test_trials_end_as_they_do_on_this_machine_and_the_same_command_goes_on(bench: Any, name: str) -> None:
    seeds = ("seed=13,14,15,16", "training.max_steps=4")
    code, text = run(bench, name, *seeds)
    assert code == 1, text
    assert states(bench) == ["failed", "out of memory", "killed", "done"]
    assert "not ranked: seed=13: failed: recipes.jsonl: empty; give another file" in text
    assert "error: 3 of 4 trials did not finish; the same command runs them again" in text
    assert {child["num_threads"] for child in bench.children() if "num_threads" in child} == {1}
    (bench.folder / "mended").touch()
    code, text = run(bench, name, *seeds)
    assert code == 0, text
    executions = {child["run_name"]: child["executions"] for child in bench.children()}
    assert executions == {
        "seed=13": ["auto", "auto"],
        "seed=14": ["auto", 512],
        "seed=15": ["auto", "auto"],
        "seed=16": ["auto"],
    }
    assert states(bench) == ["done"] * 4
    assert bench.record()["status"] == "finished"


@pytest.mark.long
@pytest.mark.parametrize("name", LAUNCHERS)
def test_nothing_is_lost_when_the_sweep_is_killed(bench: Any, name: str) -> None:
    seeds = ("seed=1,2,3", "training.max_steps=300")
    process = start(bench, name, *seeds)
    wait_until(lambda: num_training(bench) == 2 or process.poll() is not None)
    process.kill()
    process.communicate(timeout=60)
    code, text = run(bench, name, *seeds)
    assert code == 0, text
    assert states(bench) == ["done"] * 3
    steps = [step for path in sorted(bench.sweep.glob("trial-*.log")) for step in path.read_text().splitlines()]
    # No step is taken twice, and none is left out.
    assert sorted(steps) == sorted(3 * [f"step {step}" for step in range(1, 301)])
    assert len(bench.children()) == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", LAUNCHERS)
def test_ctrl_c_lets_trials_save_themselves_and_starts_no_other(bench: Any, name: str) -> None:
    process = start(bench, name, "seed=1,2,3", "training.max_steps=5000")
    wait_until(lambda: num_training(bench) == 2 or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=400)
    assert process.returncode == 130, output + errors
    assert states(bench) == ["interrupted", "interrupted"]
    assert [child["status"] for child in bench.children()] == ["interrupted", "interrupted"]
    assert len(list((bench.sweep / "jobs").iterdir())) == 2
    assert {event["exit_code"] for event in bench.ledger() if event["event"] == "end"} == {130}


@pytest.mark.slow
def test_the_end_of_a_jobs_time_stops_its_trial(bench: Any) -> None:
    process = start(bench, "submitit_local", "seed=1,2", "training.max_steps=5000")
    wait_until(lambda: num_training(bench) == 2 or process.poll() is not None)
    key = next(event["key"] for event in bench.ledger() if event["event"] == "start")
    (job,) = (bench.sweep / "processes").glob(f"*.{key}")
    os.kill(int(job.name.split(".")[1]), signal.SIGUSR2)
    wait_until(lambda: any(event["event"] == "end" for event in bench.ledger()))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=400)
    ends = [event for event in bench.ledger() if event["event"] == "end"]
    assert [(event["key"] == key, event["state"], event["exit_code"]) for event in ends] == [
        (True, "interrupted", 143),
        (False, "interrupted", 130),
    ]


TRIAL = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
print("trial", flush=True)
time.sleep(120)
"""


@pytest.fixture
def order(tmp_path: Path) -> Order:
    """A trial that waits for SIGTERM."""
    package = tmp_path / "package" / "recipe_exp"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(TRIAL)
    environment = {"PYTHONPATH": str(package.parent)}
    return Order("key", [], environment, str(tmp_path / "trial-1.log"), str(tmp_path))


def take(sweep: Path, owner: str) -> None:
    """Writes down that a process took the trial."""
    Ledger(sweep / "ledger.jsonl").append(lambda _: [Planned(0.0, "key", 1, {}, []), Started(0.0, "key", owner)])


def start_job(folder: JobFolder) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "recipe_exp.sweeping.job", str(folder.path)])


def test_a_job_stops_when_its_trial_is_somebody_elses(tmp_path: Path, order: Order) -> None:
    with Presence(tmp_path) as owner:
        take(tmp_path, owner.name)
        folder = JobFolder.create(tmp_path, "job", order, owner.name)
        process = start_job(folder)
        wait_until(lambda: Path(order.log).exists() and "trial" in Path(order.log).read_text())
        assert owner.has_others("key")
        take(tmp_path, "other.1.abcd")
        assert process.wait(200) == 0
        end = folder.end()
        assert end is not None
        assert end.exit_code == 143
        assert not owner.has_others("key")


def test_a_job_whose_sweep_is_gone_or_that_began_before_starts_nothing(tmp_path: Path, order: Order) -> None:
    with Presence(tmp_path) as owner:
        take(tmp_path, owner.name)
        late = JobFolder.create(tmp_path, "late", order, owner.name)
        twice = JobFolder.create(tmp_path, "twice", order, owner.name)
        assert twice.begin()
        assert start_job(twice).wait(200) == 0
        assert twice.end() is None
    assert start_job(late).wait(200) == 0
    assert late.end() == End(-signal.SIGTERM, 0.0)
    assert not Path(order.log).exists()


class Queued:
    """A job of a cluster that says what a test tells it to."""

    name = "job 7"
    is_gone = False
    is_cancelled = False

    def is_over(self) -> bool:
        return self.is_gone

    def cancel(self) -> None:
        self.is_cancelled = True


@pytest.fixture
def queued(tmp_path: Path, order: Order, monkeypatch: pytest.MonkeyPatch) -> tuple[JobFolder, Queued, RemoteProcess]:
    """A job that waits in its cluster's queue."""
    monkeypatch.setattr("recipe_exp.sweeping.remote.LOOK_SECONDS", -1.0)
    monkeypatch.setattr("recipe_exp.sweeping.remote.LATE_SECONDS", -1.0)
    folder, handle = JobFolder.create(tmp_path, "job", order, "owner"), Queued()
    return folder, handle, RemoteProcess(folder, handle, Path(order.log))


def test_a_signal_takes_a_job_from_the_queue(queued: tuple[JobFolder, Queued, RemoteProcess]) -> None:
    folder, handle, process = queued
    assert process.exit() is None
    process.send_signal(signal.SIGINT)
    assert handle.is_cancelled
    assert folder.signals() == [signal.SIGINT]
    assert folder.signals() == []
    end = process.exit()
    assert end is not None
    assert end.exit_code == -signal.SIGTERM


def test_a_job_that_runs_hears_of_a_signal_and_is_left_in_place(
    queued: tuple[JobFolder, Queued, RemoteProcess],
) -> None:
    folder, handle, process = queued
    assert folder.begin()
    process.send_signal(signal.SIGTERM)
    assert not handle.is_cancelled
    assert process.exit() is None
    folder.finish(End(143, 2.0))
    end = process.exit()
    assert end is not None
    assert (end.exit_code, end.seconds) == (143, 2.0)


def test_a_job_that_the_cluster_lost_is_a_killed_trial(queued: tuple[JobFolder, Queued, RemoteProcess]) -> None:
    folder, handle, process = queued
    assert folder.begin()
    handle.is_gone = True
    end = process.exit()
    assert end is not None
    assert end.exit_code == -signal.SIGKILL


def test_a_job_that_never_began_says_where_to_look(
    queued: tuple[JobFolder, Queued, RemoteProcess], order: Order
) -> None:
    folder, handle, process = queued
    handle.is_gone = True
    end = process.exit()
    assert end is not None
    assert end.exit_code == 1
    assert Path(order.log).read_text() == f"error: job 7 ended before its trial began; see {folder.path}\n"


def test_what_slurm_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch script that submitit hands to `sbatch`, which is a stub: no cluster is at hand."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "srun").write_text("#!/bin/sh\n")
    (tools / "sbatch").write_text(f'#!/bin/sh\ncp "$1" {tmp_path}/script\necho "Submitted batch job 7"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    settings = SubmititSlurmJobs(partition="gpu", gpus_per_node=1, timeout_min=240, mem_gb=32, account="kitchen")
    folder = tmp_path / "trial-1-abcd"
    folder.mkdir()
    job = SubmititCluster(settings)._submit(folder)
    assert job.name == "job 7"
    lines = (tmp_path / "script").read_text().splitlines()
    wanted = ["account=kitchen", "cpus-per-task=4", "gpus-per-node=1", "job-name=trial-1-abcd", "mem=32GB"]
    wanted += ["no-requeue", "nodes=1", "ntasks-per-node=1", "partition=gpu", "signal=USR2@120", "time=240"]
    for option in wanted:
        assert f"#SBATCH --{option}" in lines
    assert not [line for line in lines if "constraint" in line or "qos" in line]
    (tools / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: gpu' >&2\nexit 1\n")
    with pytest.raises(SweepError, match=r"the job cannot be handed in: .*invalid partition specified: gpu"):
        SubmititCluster(settings)._submit(folder)


@pytest.mark.slow
def test_a_trial_is_not_left_waiting_for_what_this_machine_does_not_have(bench: Any) -> None:
    code, text = run(bench, "ray", "seed=1,2", "hydra.launcher.num_gpus=99")
    assert code == 1
    (mistake,) = [line for line in text.splitlines() if line.startswith("error: ")]
    assert "hydra.launcher.num_cpus=1 hydra.launcher.num_gpus=99: this machine has " in mistake
    assert "give a trial fewer, or hydra.launcher.address=" in mistake


@pytest.mark.slow
def test_a_cluster_may_still_grow(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    ray_tasks = pytest.importorskip("recipe_exp.sweeping.ray_tasks")
    monkeypatch.setattr(ray_tasks.ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}}])
    ray_tasks._check_room(RayTasks(address="auto", num_cpus=4, num_gpus=1))
    assert caplog.text == ""
    ray_tasks._check_room(RayTasks(address="auto", num_cpus=4, num_gpus=2))
    assert "no node of the cluster has these (8 CPUs and 1 GPUs); trials wait until one joins" in caplog.text


def test_settings_are_named_as_submitit_names_them() -> None:
    settings = SubmititSlurmJobs()
    assert set(common_parameters(settings)) <= set(SubmititSlurmJobs.model_fields)
    assert slurm_parameters(settings, "trial-1")["slurm_additional_parameters"] == {"no_requeue": True}


@pytest.mark.parametrize(
    ("name", "library", "extra"),
    [("submitit_slurm", "submitit", "slurm"), ("submitit_local", "submitit", "slurm"), ("ray", "ray", "ray")],
)
def test_a_missing_extra_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, library: str, extra: str
) -> None:
    monkeypatch.chdir(tmp_path)
    find = launcher.importlib.util.find_spec
    monkeypatch.setattr(launcher.importlib.util, "find_spec", lambda found: None if found == library else find(found))
    with pytest.raises(ConfigError) as caught:
        run_sweep(["-m", "seed=1,2", f"hydra/launcher={name}"])
    (line,) = caught.value.mistakes
    assert line == f"hydra/launcher={name}: needs the extra `{extra}`; pip install 'recipe-exp[{extra}]'"
    assert list(tmp_path.iterdir()) == []


def test_without_sbatch_there_is_no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="hydra/launcher=submitit_slurm: finds no sbatch"):
        run_sweep(["-m", "seed=1,2", "hydra/launcher=submitit_slurm"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (["hydra.launcher.partition=gpu"], "hydra.launcher.partition=gpu: a key of hydra/launcher=submitit_slurm;"),
        (["hydra/launcher=ray", "hydra.launcher.timeout_min=9"], "a key of hydra/launcher=submitit_slurm or submitit_"),
        (["hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=0"], "timeout_min=0: must be at least 1"),
        (["hydra/launcher=ray", "hydra.launcher.slots=0"], "must be a number of trials, 1 or more"),
        (["hydra.launcher.partitions=gpu"], "Hydra's own settings are fixed"),
    ],
)
def test_settings_of_another_launcher_are_refused(bench: Any, line: list[str], says: str) -> None:
    done = bench.run("-m", "seed=1,2", *line)
    assert done.returncode == 2
    (mistake,) = done.stderr.splitlines()
    assert says in mistake


def test_a_job_folder_keeps_what_it_is_given(tmp_path: Path, order: Order) -> None:
    folder = JobFolder.create(tmp_path, "job", order, "owner")
    assert JobFolder(folder.path).order() == ("owner", order)
    assert folder.sweep == tmp_path
    folder.finish(End(-9, 1.5))
    assert msgspec.json.decode((folder.path / "end.json").read_bytes()) == {"exit_code": -9, "seconds": 1.5}
