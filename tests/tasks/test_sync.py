"""`task=sync` from the command line: which runs it takes, and what it says of the others."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from recipe_exp.__main__ import main
from recipe_exp.tracking import Journal, RunFolder
from recipe_exp.tracking.locations import default_uri

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def make_run(output_dir: Path, name: str, *, enabled: bool) -> RunFolder:
    folder = RunFolder.create(output_dir, run_name=name, command=["train"])
    folder.config_path.write_text(f"tracking:\n  enabled: {str(enabled).lower()}\n")
    journal = Journal(folder)
    journal.metrics(1, {"train/loss": 1.0})
    journal.status("finished")
    return folder


def names_in(output_dir: Path) -> set[str]:
    from mlflow import MlflowClient

    return {run.info.run_name for run in MlflowClient(default_uri(output_dir)).search_runs(["1"])}


def test_every_tracked_run_is_sent_and_the_others_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output_dir = tmp_path / "outputs"
    tracked = make_run(output_dir, "tracked", enabled=True)
    untracked = [make_run(output_dir, f"untracked{number}", enabled=False) for number in range(4)]
    going_on = make_run(output_dir, "going on", enabled=True)
    with going_on.lock():
        assert main(["task=sync", f"output_dir={output_dir}"]) == 0
    shown = capsys.readouterr().out
    assert f"{tracked.path.name}: 1 metric value, 0 files sent, recorded as finished" in shown
    assert "left out 4 with tracking.enabled=false: " in shown
    assert "name them in task.runs to send them" in shown
    assert f"{going_on.path.name}: is going on, and its own uploader sends it" in shown
    assert names_in(output_dir) == {"tracked"}

    # Whoever names a run means it.
    assert main(["task=sync", f"output_dir={output_dir}", f"task.runs=[{untracked[0].run_id}]"]) == 0
    assert names_in(output_dir) == {"tracked", "untracked0"}
    assert "left out" not in capsys.readouterr().out


def test_a_killed_run_is_told_before_it_goes_to_another_server(tmp_path: Path) -> None:
    output_dir = tmp_path / "outputs"
    folder = make_run(output_dir, "cut", enabled=True)
    assert main(["task=sync", f"output_dir={output_dir}"]) == 0
    journal = Journal(folder)
    journal.status("running")
    journal.metrics(2, {"train/loss": 1.0})
    journal.close()
    from mlflow import MlflowClient

    client = MlflowClient(default_uri(output_dir))
    before = folder.read_record()["mlflow"]["run_id"]
    client.update_run(before, status="RUNNING")
    other = f"sqlite:///{tmp_path / 'other.db'}"
    assert main(["task=sync", f"output_dir={output_dir}", f"tracking.uri={other}"]) == 0
    assert client.get_run(before).info.status == "KILLED"
    after = folder.read_record()["mlflow"]
    assert after["uri"] == other
    assert MlflowClient(other).get_run(after["run_id"]).info.status == "KILLED"
    assert len(MlflowClient(other).get_metric_history(after["run_id"], "train/loss")) == 2


def test_what_cannot_be_sent_is_one_line_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output_dir = tmp_path / "outputs"
    for name in ("one", "two", "three", "four", "five"):
        make_run(output_dir, name, enabled=True)
    assert main(["task=sync", f"output_dir={output_dir}", "tracking.uri=http://127.0.0.1:9"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert all(line.startswith("error: tracking.uri=http://127.0.0.1:9: cannot be sent to") for line in lines[:3])
    assert lines[3] == "error: 2 more runs not tried"
