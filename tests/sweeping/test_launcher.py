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
from recipe_exp.sweeping.sweep import Sweep

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
    assert [trial["state"] for trial in trials] == ["failed", "failed", "done", "done"]
    assert [trial["step"] for trial in trials] == [None, None, 60, 60]
    assert trials[1]["error"] == "recipes.jsonl: empty; give another file"
    assert done.returncode == 1
    assert done.stderr.startswith("error: 2 of 4 trials did not finish")
    assert bench.record()["status"] == "failed"


def test_table_names_what_varies_and_why_a_trial_failed(mixed: Mixed) -> None:
    bench, done = mixed
    lines = done.stdout.splitlines()
    header = next(line.split() for line in lines if line.lstrip().startswith("training  "))
    assert header == ["training", "seed", "state", "steps", "eval/loss", "time", "run"]
    row = next(line.split() for line in lines if line.split()[1:4] == ["from_scratch", "0", "done"])
    assert row[4:6] == ["60", "0.0010"]
    assert row[-1] == bench.summary()["trials"][2]["run_id"]
    reason = "failed: recipes.jsonl: empty; give another file"
    assert f"not ranked: seed=13,training=full: {reason}" in lines
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
    cores = len(os.sched_getaffinity(0))
    assert [child["num_threads"] for child in (first, second)] == [cores, cores]
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
    sweeps: list[Sweep] = []
    monkeypatch.setattr(launcher, "run_trials", sweeps.append)
    assert run_sweep(["-m", "training=glob(*)", "seed=1"]) == 0
    (sweep,) = sweeps
    chosen = {trial.varying["training"] for trial in sweep.trials}
    assert {"from_scratch", "full", "lora"} <= chosen
    assert not [name for name in chosen if "schema" in name]


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
    assert [trial["state"] for trial in bench.summary()["trials"]] == ["interrupted", "interrupted"]
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


@pytest.fixture(scope="module")
def troubled(make_bench: Callable[[], Any]) -> Mixed:
    """A trial that fails, one that runs out of memory, one that is killed and a good one."""
    bench = make_bench()
    return bench, bench.run("-m", "seed=13,14,15,16", "hydra.launcher.slots=2", *UNTRACKED)


def test_the_table_says_why_and_the_others_finish(troubled: Mixed) -> None:
    bench, done = troubled
    assert done.returncode == 1
    trials = bench.summary()["trials"]
    assert [trial["state"] for trial in trials] == ["failed", "out of memory", "killed", "done"]
    reasons = {
        "seed=13": "failed: recipes.jsonl: empty; give another file",
        "seed=14": "out of memory: step 1: out of memory in micro-batches of 1,024 tokens; add training=lora",
        "seed=15": "killed: killed by SIGKILL; by the system, if its memory was full",
    }
    for name, reason in reasons.items():
        assert f"not ranked: {name}: {reason}" in done.stdout
    assert "error: 3 of 4 trials did not finish; the same command runs them again" in done.stderr


def test_the_same_command_runs_only_what_has_no_result(troubled: Mixed) -> None:
    bench, _ = troubled
    before = {child["run_name"]: child["run_id"] for child in bench.children()}
    (bench.folder / "mended").touch()
    done = bench.run("-m", "seed=13,14,15,16", "hydra.launcher.slots=3", "hardware=cpu", *UNTRACKED)
    assert done.returncode == 0, done.stderr
    assert "4 trials, 1 of them done already, 3 at once" in done.stdout
    children = bench.children()
    assert {child["run_name"]: child["run_id"] for child in children} == before
    executions = {child["run_name"]: child["executions"] for child in children}
    assert executions == {
        "seed=13": ["auto", "auto"],
        "seed=14": ["auto", 512],
        "seed=15": ["auto", "auto"],
        "seed=16": ["auto"],
    }
    # Cores are divided when a sweep begins, so that another number of slots changes no number.
    assert len({child["num_threads"] for child in children}) == 1
    assert [trial["state"] for trial in bench.summary()["trials"]] == ["done"] * 4
    assert bench.record()["status"] == "finished"
    again = bench.run("-m", "seed=16,15,14,13", *UNTRACKED)
    assert again.returncode == 0
    assert "4 of them done already" in again.stdout
    assert len(bench.ledger()) == 4 + 2 * 4 + 2 * 3


@pytest.mark.long
def test_more_values_join_a_sweep_and_a_further_one_begins_again(bench: Any) -> None:
    assert bench.run("-m", "seed=1,2", *UNTRACKED).returncode == 0
    extended = bench.run("-m", "seed=2,3", "sweep.extend=latest", "sweep.keep_checkpoints=best", *UNTRACKED)
    assert extended.returncode == 0, extended.stderr
    assert "3 trials, 2 of them done already" in extended.stdout
    assert [trial["varying"] for trial in bench.summary()["trials"]] == [{"seed": seed} for seed in "123"]
    assert len(bench.children()) == 3
    # The best is that of the lowest number where all are equal.
    kept = [bool(list(Path(bench.folder).glob(f"outputs/runs/*seed-{seed}/checkpoints"))) for seed in "123"]
    assert kept == [True, False, False]
    assert "3 of them done already" in bench.run("-m", "seed=2,3", *UNTRACKED).stdout
    other = bench.run("-m", "seed=4,5", "sweep.extend=latest", "training.learning_rate=0.5", *UNTRACKED)
    assert other.returncode == 2
    assert "training.learning_rate: " in other.stderr
    assert "would not be comparable" in other.stderr
    swept = bench.run("-m", "training.learning_rate=0.5,0.6", "sweep.extend=latest", *UNTRACKED)
    assert "that sweep varies seed, this command training.learning_rate" in swept.stderr
    assert bench.run("-m", "seed=1,2", "sweep.new=true", *UNTRACKED).returncode == 0
    assert len(list((bench.folder / "outputs" / "sweeps").glob("*/"))) == 2
    assert len(bench.children()) == 5


def test_shards_share_a_sweep(bench: Any) -> None:
    line = ("-m", "seed=1,2,3,4,5", "tracking=journal_only", "training.max_steps=20", "training.warmup_steps=1")
    first, second = (bench.start(*line, f"sweep.shard={part}/2") for part in (1, 2))
    outputs = [process.communicate(timeout=120) for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], outputs
    assert [trial["state"] for trial in bench.summary()["trials"]] == ["done"] * 5
    assert len(bench.children()) == 5
    assert bench.record()["status"] == "finished"
    owners = {event["key"]: event["owner"] for event in bench.ledger() if event["event"] == "start"}
    numbers = {event["key"]: event["number"] for event in bench.ledger() if event["event"] == "trial"}
    by_owner = [{numbers[key] for key, owner in owners.items() if owner == name} for name in set(owners.values())]
    assert sorted(map(sorted, by_owner)) == [[1, 3, 5], [2, 4]]
    # The one that ends last shows all of them.
    assert any(all(f"seed={seed}" in output for seed in "12345") for output, _ in outputs), outputs


@pytest.mark.long
def test_nothing_is_lost_when_the_sweep_itself_is_killed(bench: Any) -> None:
    line = ("-m", "seed=1,2,3", "hydra.launcher.slots=2", "tracking=journal_only", "training.warmup_steps=1")
    process = bench.start(*line, "training.max_steps=100")
    wait_until(lambda: num_training(bench) == 2)
    process.kill()
    process.communicate(timeout=60)
    done = bench.run(*line, "training.max_steps=100")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("continues resume=") == 2
    steps = [step for path in sorted(bench.sweep.glob("trial-*.log")) for step in path.read_text().splitlines()]
    # No step is taken twice, and none is left out.
    assert sorted(steps) == sorted(3 * [f"step {step}" for step in range(1, 101)])
    assert [trial["state"] for trial in bench.summary()["trials"]] == ["done"] * 3


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
    artifacts = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert artifacts >= {"figures", "ledger.jsonl", "report.html", "sweep.json"}
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
