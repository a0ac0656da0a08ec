from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from recipe_exp.errors import ConfigError
from recipe_exp.sweeping import launcher
from recipe_exp.sweeping.launcher import run_sweep

QUICK = ("training.max_steps=4", "training.warmup_steps=1")
UNTRACKED = ("tracking=journal_only", *QUICK)
LONG = ("tracking=journal_only", "training.max_steps=2000", "training.warmup_steps=1")


Mixed = tuple[Any, subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def mixed(make_bench: Callable[[], Any]) -> Mixed:
    """Two ways to train, each with a seed that fails and a good one, two trials at once."""
    bench = make_bench()
    grid = ("seed=choice(13,0)", "training=from_scratch,full", "training.learning_rate=1e-3")
    steps = ("tracking=journal_only", "training.max_steps=60", "training.warmup_steps=1")
    return bench, bench.run("-m", *grid, "hydra.launcher.slots=2", *steps, CUDA_VISIBLE_DEVICES="4,7")


def test_failing_trials_leave_the_others_alone(mixed: Mixed) -> None:
    bench, done = mixed
    trials = bench.summary()["trials"]
    assert [trial["varying"] for trial in trials] == [
        {"seed": seed, "training": training} for seed in ("13", "0") for training in ("from_scratch", "full")
    ]
    assert [trial["status"] for trial in trials] == ["failed", "failed", "finished", "finished"]
    assert [trial["step"] for trial in trials] == [None, None, 60, 60]
    assert trials[1]["error"] == "recipes.jsonl: empty; give another file"
    assert done.returncode == 1
    assert done.stderr.startswith("error: 2 of 4 trials did not finish")
    assert bench.record()["status"] == "failed"


def test_table_names_what_varies_and_why_a_trial_failed(mixed: Mixed) -> None:
    bench, done = mixed
    lines = done.stdout.splitlines()
    header = next(line.split() for line in lines if line.lstrip().startswith("trial  "))
    assert header == ["trial", "seed", "training", "status", "steps", "eval/loss", "time", "run", "folder"]
    row = next(line.split() for line in lines if line.split()[:1] == ["3"])
    assert row[1:6] == ["0", "from_scratch", "finished", "60", "0.001"]
    assert row[-1] == bench.summary()["trials"][2]["run_folder"]
    assert "trial 2 failed: recipes.jsonl: empty; give another file" in lines
    assert any(line.startswith("trial 1/4 (seed=13,training=from_scratch) started") for line in lines)


def test_trials_are_children_named_after_what_differs(mixed: Mixed) -> None:
    bench, _ = mixed
    record, children = bench.record(), bench.children()
    assert record["kind"] == "sweep"
    assert record["run_name"] == "seed x training"
    assert [child["run_name"] for child in children] == [
        "seed=0,training=from_scratch",
        "seed=0,training=full",
        "seed=13,training=from_scratch",
        "seed=13,training=full",
    ]
    assert {child["parent_run_id"] for child in children} == {record["run_id"]}
    assert (bench.sweep / "trial-4.log").read_text().splitlines() == [f"step {step}" for step in range(1, 61)]


def test_slots_divide_threads_and_gpus(mixed: Mixed) -> None:
    bench, _ = mixed
    finished = [child for child in bench.children() if "began" in child]
    expected = max(len(os.sched_getaffinity(0)) // 2, 1)
    assert [child["num_threads"] for child in finished] == [expected, expected]
    assert {child["gpus"] for child in finished} == {"4", "7"}


def test_two_slots_run_two_trials_at_once(mixed: Mixed) -> None:
    bench, _ = mixed
    first, second = (child for child in bench.children() if "began" in child)
    assert max(first["began"], second["began"]) < min(first["ended"], second["ended"])


def test_sweep_json_is_strict_json(mixed: Mixed) -> None:
    bench, _ = mixed
    text = (bench.sweep / "sweep.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_ready_sweep_needs_no_flag_and_the_command_line_wins(bench: Any) -> None:
    done = bench.run("sweeps=learning_rate", "training.learning_rate=range(0.1,0.3,0.1)", "run_name=mine", *UNTRACKED)
    assert done.returncode == 0, done.stderr
    assert bench.summary()["swept"] == {"training.learning_rate": ["0.1", "0.2"]}
    assert bench.summary()["best_trial"] == 1
    assert bench.record()["status"] == "finished"
    first, second = sorted(bench.children(), key=lambda child: float(child["began"]))
    assert first["ended"] < second["began"]
    assert [child["num_threads"] for child in (first, second)] == ["auto", "auto"]
    assert [child["run_name"] for child in (first, second)] == ["mine", "mine"]
    assert {path.name for path in bench.folder.iterdir()} == {"stub", "outputs"}


def test_mistakes_in_later_trials_stop_the_first(bench: Any) -> None:
    done = bench.run("-m", "training.learning_rate=1e-3,-1,-2", "model=t5_tiny,nothing")
    assert done.returncode == 2
    assert sorted(line.partition(": ")[2].partition(": ")[0] for line in done.stderr.splitlines()) == [
        "model=nothing",
        "training.learning_rate=-1",
        "training.learning_rate=-2",
    ]
    assert {path.name for path in bench.folder.iterdir()} == {"stub"}


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, in which a refused sweep leaves nothing."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("slots", ["0", "True", "many"])
def test_slots_are_a_positive_number(empty_folder: Path, slots: str) -> None:
    with pytest.raises(ConfigError, match=f"hydra.launcher.slots={slots.lower()}: must be"):
        run_sweep(["-m", "seed=1,2", f"hydra.launcher.slots={slots}"])
    assert list(empty_folder.iterdir()) == []


def test_another_launcher_is_refused(empty_folder: Path) -> None:
    with pytest.raises(ConfigError, match="hydra/launcher: only recipe_exp"):
        run_sweep(["-m", "seed=1,2", "hydra/launcher=basic"])
    assert list(empty_folder.iterdir()) == []


def test_what_hydra_would_stop_at_is_reported_with_all_else(empty_folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        run_sweep(["-m", "seed=1,2", "model=nothing", "training.learning_ratte=1"])
    assert [line.partition(":")[0] for line in caught.value.mistakes] == ["model=nothing", "training.learning_ratte=1"]
    assert list(empty_folder.iterdir()) == []


def test_glob_offers_what_a_user_may_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    grids = []
    monkeypatch.setattr(launcher, "plan_trials", grids.append)
    monkeypatch.setattr(launcher, "run_trials", lambda *_: [])
    assert run_sweep(["-m", "training=glob(*)", "seed=1"]) == 0
    (grid,) = grids
    assert {("training=from_scratch", "seed=1"), ("training=full", "seed=1"), ("training=lora", "seed=1")} <= {
        tuple(trial) for trial in grid
    }
    assert not [trial for trial in grid if "schema" in trial[0]]


def test_hydra_answers_its_own_flags(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = list(sys.argv)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    assert run_sweep(["--cfg", "hydra", "hydra.launcher.slots=3"]) == 0
    assert "slots: 3" in capsys.readouterr().out
    assert sys.argv == arguments
    assert "HYDRA_FULL_ERROR" not in os.environ


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_stops_running_trials_and_starts_no_other(bench: Any, number: signal.Signals, exit_code: int) -> None:
    process = bench.start("-m", "seed=1,2,3", "hydra.launcher.slots=2", *LONG)
    wait_until(lambda: num_training(bench) == 2)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == exit_code
    assert [trial["status"] for trial in bench.summary()["trials"]] == ["interrupted", "interrupted", "not started"]
    assert [child["status"] for child in bench.children()] == ["interrupted", "interrupted"]
    assert bench.record()["status"] == "interrupted"
    assert "not started" in output
    assert errors.startswith(f"error: stopped by {number.name}: 3 of 3 trials did not finish")


def test_trials_die_with_a_sweep_that_is_killed(bench: Any) -> None:
    process = bench.start("-m", "seed=1,2", "hydra.launcher.slots=2", *LONG)
    wait_until(lambda: num_training(bench) == 2)
    trials = psutil.Process(process.pid).children()
    assert len(trials) == 2
    assert {os.getsid(trial.pid) for trial in trials} == {trial.pid for trial in trials}
    process.kill()
    process.communicate(timeout=60)
    _, alive = psutil.wait_procs(trials, timeout=20)
    assert alive == []
    assert [child["status"] for child in bench.children()] == ["interrupted", "interrupted"]


@pytest.mark.slow
def test_trials_are_nested_under_the_sweep_in_mlflow(bench: Any) -> None:
    done = bench.run("-m", "training.learning_rate=1e-3,1e-2", "tags=[first]", "hydra.launcher.slots=2", *QUICK)
    assert done.returncode == 0, done.stderr
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{bench.folder / 'outputs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("recipes")
    assert experiment is not None
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    parent = runs.pop("learning_rate")
    assert parent.info.status == "FINISHED"
    assert parent.data.params == {"training.learning_rate": "0.001, 0.01"}
    assert parent.data.tags["recipe_exp.num_trials"] == "2"
    assert parent.data.tags["tag.first"] == "true"
    assert [file.path for file in client.list_artifacts(parent.info.run_id)] == ["sweep.json"]
    assert set(runs) == {"learning_rate=0.001", "learning_rate=0.01"}
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}


def num_training(bench: Any) -> int:
    """How many trials have printed their first step."""
    logs = Path(bench.folder).glob("outputs/sweeps/*/trial-*.log")
    return sum("step 1" in log.read_text() for log in logs)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
