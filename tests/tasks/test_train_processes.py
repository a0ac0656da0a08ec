from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def start(arguments: Sequence[str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "recipe_exp", *arguments],
        cwd=folder,
        env=dict(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def the_run(folder: Path) -> Path:
    (run,) = (folder / "outputs" / "runs").iterdir()
    return run


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def losses(run: Path) -> list[float]:
    lines = [json.loads(line)["metrics"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["train/loss"] for line in lines if "train/loss" in line]


def final_files(run: Path) -> dict[str, bytes]:
    newest = sorted((run / "checkpoints").iterdir())[-1]
    return {file.name: file.read_bytes() for file in newest.glob("*.safetensors")}


@pytest.mark.long
def test_a_killed_run_repeated_ends_like_an_uninterrupted_one(
    small_run: list[str], recipe_exp: Command, tmp_path: Path
) -> None:
    overrides = [*small_run, "model.dropout=0.1", "training.max_steps=16", "resume=latest"]
    whole = tmp_path / "whole"
    assert recipe_exp([*overrides, f"output_dir={whole / 'outputs'}"]).returncode == 0
    process = start(overrides, tmp_path)
    checkpoints = tmp_path / "outputs" / "runs"
    wait_for(lambda: any(checkpoints.glob("*/checkpoints/step-00000004")), process)
    process.kill()
    process.wait()
    run = the_run(tmp_path)
    again = recipe_exp(overrides)
    assert again.returncode == 0, again.stderr
    assert "continuing at step" in again.stdout
    assert the_run(tmp_path) == run
    assert losses(run) == losses(the_run(whole))
    assert final_files(run) == final_files(the_run(whole))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_after_the_step_and_names_the_command_that_continues(
    small_run: list[str], recipe_exp: Command, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    endless = ["training.max_steps=100000", "training.num_epochs=100000", "hardware.compile=false"]
    process = start([*small_run, *endless], tmp_path)
    checkpoints = tmp_path / "outputs" / "runs"
    wait_for(lambda: any(checkpoints.glob("*/checkpoints/step-00000004")), process)
    process.send_signal(number)
    shown, _ = process.communicate(timeout=100)
    assert process.returncode == code, shown
    record = json.loads((the_run(tmp_path) / "run.json").read_text())
    assert record["status"] == "interrupted"
    assert f"python -m recipe_exp resume={record['run_id']}" in shown
    newest = sorted((the_run(tmp_path) / "checkpoints").iterdir())[-1]
    assert newest.name == f"step-{record['step']:08d}"


@pytest.mark.long
def test_two_processes_learn_what_one_learns(small_run: list[str], recipe_exp: Command, tmp_path: Path) -> None:
    overrides = [*small_run, "training.log_every_n_steps=1", "training.max_steps=3", "evaluation.every_n_steps=null"]
    one = recipe_exp([*overrides, f"output_dir={tmp_path / 'one' / 'outputs'}"])
    two = recipe_exp([*overrides, "hardware.num_processes=2"])
    assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr
    record = json.loads((the_run(tmp_path) / "run.json").read_text())
    assert record["machinery"]["num_processes"] == 2
    assert losses(the_run(tmp_path)) == pytest.approx(losses(the_run(tmp_path / "one")), rel=1e-5)


@pytest.mark.long
def test_a_run_of_two_processes_is_continued_by_its_id_with_two(
    small_run: list[str], recipe_exp: Command, tmp_path: Path
) -> None:
    endless = ["training.max_steps=100000", "hardware.compile=false"]
    process = start([*small_run, "hardware.num_processes=2", *endless], tmp_path)
    wait_for(lambda: any((tmp_path / "outputs" / "runs").glob("*/checkpoints/step-00000002")), process)
    process.send_signal(signal.SIGTERM)
    shown, _ = process.communicate(timeout=100)
    record = json.loads((the_run(tmp_path) / "run.json").read_text())
    assert (process.returncode, record["status"]) == (143, "interrupted"), shown
    again = recipe_exp([f"resume={record['run_id']}", "training.stop_after_hours=1e-9"])
    assert again.returncode == 75, again.stderr
    assert json.loads((the_run(tmp_path) / "run.json").read_text())["step"] == record["step"] + 1
    assert "2 processes" in again.stdout


@pytest.mark.slow
def test_torchrun_starts_the_same_run(small_run: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29653"]
    finished = subprocess.run(
        [*command, "-m", "recipe_exp", *small_run, "training.max_steps=2", "training.warmup_steps=1"],
        cwd=tmp_path,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    record = json.loads((the_run(tmp_path) / "run.json").read_text())
    assert (record["status"], record["machinery"]["num_processes"]) == ("finished", 2)


@pytest.mark.long
def test_the_tracker_has_the_whole_run_also_after_the_folder_moved(
    small_run: list[str], recipe_exp: Command, tmp_path: Path
) -> None:
    finished = recipe_exp([*small_run, "tracking=mlflow", "tags=[first]", "description=a small run"])
    assert finished.returncode == 0, finished.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]
    (tmp_path / "outputs").rename(tmp_path / "moved")
    shown = subprocess.run(
        [sys.executable, "-c", READ_BACK, str(tmp_path / "moved")],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    stored = json.loads(shown.stdout.splitlines()[-1])
    (run,) = (tmp_path / "moved" / "runs").iterdir()
    assert stored["status"] == "FINISHED"
    assert stored["params"]["training.learning_rate"] == "0.005"
    assert stored["params"]["machinery.micro_batch_tokens"] == "2048"
    assert [point[0] for point in stored["loss"]] == [3, 6, 8]
    assert [point[1] for point in stored["loss"]] == pytest.approx(losses(run))
    files = {"config.yaml", "data_card.html", "data_card.json", "data_card.md", "samples.jsonl"}
    assert files | {"model/model.safetensors", "model/tokenizer.json"} <= set(stored["artifacts"])
    assert sorted(stored["datasets"]) == ["training", "validation"]
    assert stored["note"] == "a small run"
    assert json.loads((run / "run.json").read_text())["mlflow"]["run_id"] == stored["run_id"]


READ_BACK = """
import json, sys
from pathlib import Path
from mlflow import MlflowClient
from recipe_exp.tracking import default_uri, relocate
folder = Path(sys.argv[1])
relocate(folder)
client = MlflowClient(default_uri(folder))
experiment = client.get_experiment_by_name("recipes")
(run,) = client.search_runs([experiment.experiment_id])
def files(path=None):
    for entry in client.list_artifacts(run.info.run_id, path):
        yield from files(entry.path) if entry.is_dir else [entry.path]
print(json.dumps({
    "run_id": run.info.run_id,
    "status": run.info.status,
    "params": run.data.params,
    "note": run.data.tags.get("mlflow.note.content"),
    "loss": [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "train/loss")],
    "artifacts": list(files()),
    "datasets": [tag.value for i in run.inputs.dataset_inputs for tag in i.tags if tag.key == "mlflow.data.context"],
}))
"""
