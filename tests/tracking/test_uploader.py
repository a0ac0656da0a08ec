from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recipe_exp.tracking import Journal, RunFolder, start_uploader, uploader
from recipe_exp.tracking.events import MetricPoint
from recipe_exp.tracking.launch import SENDING, WAITING
from recipe_exp.tracking.locations import default_uri
from recipe_exp.tracking.sender import sent_record_path
from recipe_exp.tracking.uploader import GaveUpError, Replaced, Uploader

Behaviour = Callable[[str], None]


class FakeRun:
    """Keeps what it is told; `behaviour` may raise instead."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.run_id = "mlflow-1"
        self.points: list[MetricPoint] = []
        self.params: dict[str, str] = {}
        self.statuses: list[str] = []
        self._behaviour = behaviour

    def log_metrics(self, points: list[MetricPoint]) -> None:
        self._behaviour("metrics")
        self.points += points

    def log_params(self, params: dict[str, str]) -> None:
        self._behaviour("params")
        self.params |= params

    def set_status(self, status: str, time: float) -> None:
        self._behaviour("status")
        self.statuses.append(status)


class FakeStore:
    public_uri, experiment_id = "http://server", "1"

    def __init__(self, run: FakeRun) -> None:
        self.run = run

    def find_or_create_run(self, identity: object) -> FakeRun:
        return self.run

    def find_run(self, run_id: str) -> str | None:
        return None


class FakeTraining:
    """Training that is alive for some looks; `waits` are those that the uploader took in between."""

    def __init__(self, num_looks: int = 0) -> None:
        self.num_looks = num_looks
        self.waits: list[float] = []

    def is_alive(self) -> bool:
        self.num_looks -= 1
        return self.num_looks >= 0

    def is_over(self) -> bool:
        return not self.is_alive()

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        assert len(self.waits) < 1000


class Outage:
    """Fails a number of calls."""

    def __init__(self, num_failures: int, error: Exception | None = None) -> None:
        self.left = num_failures
        self.error = error or ConnectionError("server is down")

    def __call__(self, call: str) -> None:
        if self.left > 0:
            self.left -= 1
            raise self.error


def upload(
    folder: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    run: FakeRun,
    training: FakeTraining | None = None,
    journal_start: int = 0,
) -> Uploader:
    process = prepare(folder, monkeypatch, run, training, journal_start)
    process.run()
    return process


def prepare(
    folder: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    run: FakeRun,
    training: FakeTraining | None = None,
    journal_start: int = 0,
    **options: Any,
) -> Uploader:
    monkeypatch.setattr(uploader.MlflowStore, "open", lambda *_: FakeStore(run))
    seen = training or FakeTraining()
    return Uploader(folder, "http://server", "recipes", seen, journal_start, **options)  # type: ignore[arg-type]


def test_an_outage_delays_and_loses_nothing(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(folder)
    journal.params({"a": 1})
    for step in range(2500):
        journal.metrics(step, {"loss": float(step)})
    journal.status("finished")
    run = FakeRun(Outage(9))
    training = FakeTraining(100)
    reports: list[bytes] = []
    prepare(folder, monkeypatch, run, training, report=reports.append).run()
    assert run.params == {"a": "1"}
    assert [(p.step, p.value) for p in run.points] == [(step, float(step)) for step in range(2500)]
    assert run.statuses == ["finished"]
    assert training.waits[:9] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert reports == [WAITING, SENDING, WAITING, SENDING]
    assert folder.read_record()["mlflow"] == {"uri": "http://server", "experiment_id": "1", "run_id": "mlflow-1"}


def test_a_restart_sends_nothing_again_even_after_a_rewind(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(folder)
    for step in (1, 2, 3):
        journal.metrics(step, {"loss": float(step)})
    journal.status("interrupted")
    first = FakeRun(Outage(0))
    upload(folder, monkeypatch, first)
    start = folder.journal_path.stat().st_size
    journal.rewind(2)
    journal.status("running")
    for step in (3, 4):
        journal.metrics(step, {"loss": step + 0.5})
    journal.status("finished")
    second = FakeRun(Outage(0))
    upload(folder, monkeypatch, second, journal_start=start)
    assert [p.step for p in first.points] == [1, 2, 3]
    assert [(p.step, p.value) for p in second.points] == [(4, 4.5)]
    assert second.statuses == ["running", "finished"]


def test_the_end_of_an_earlier_process_does_not_end_this_one(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(folder)
    journal.status("interrupted")
    start = folder.journal_path.stat().st_size

    class LateTraining(FakeTraining):
        def is_alive(self) -> bool:
            if len(self.waits) == 2 and not run.statuses.count("running"):
                journal.status("running")
                journal.metrics(1, {"loss": 1.0})
                journal.status("finished")
            return super().is_alive()

    run = FakeRun(Outage(0))
    upload(folder, monkeypatch, run, LateTraining(10), start)
    assert [p.step for p in run.points] == [1]
    assert run.statuses == ["interrupted", "running", "finished"]


def test_what_a_server_refuses_costs_only_itself(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(folder)
    journal.params({"a": 1})
    journal.artifact(folder.path / "gone.txt")
    for step in range(5):
        journal.metrics(step, {"loss": float(step)})
    journal.status("finished")

    class Picky(FakeRun):
        def log_params(self, params: dict[str, str]) -> None:
            raise ValueError("never")

        def log_metrics(self, points: list[MetricPoint]) -> None:
            if any(point.step == 3 for point in points):
                raise ValueError("not this one")
            super().log_metrics(points)

    run = Picky(Outage(0))
    training = FakeTraining()
    process = upload(folder, monkeypatch, run, training)
    assert [p.step for p in run.points] == [0, 1, 2, 4]
    assert run.statuses == ["finished"]
    assert process._backlog.sender.counts.num_refused == 3
    assert training.waits == []


def test_a_killed_run_gets_its_true_status(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    Journal(folder).metrics(1, {"loss": 1.0})
    run = FakeRun(Outage(0))
    upload(folder, monkeypatch, run, FakeTraining(2))
    assert run.statuses == ["interrupted"]
    assert folder.read_record()["status"] == "interrupted"


def test_a_run_that_another_process_took_over_is_left_to_it(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    Journal(folder).metrics(1, {"loss": 1.0})
    run = FakeRun(Outage(0))
    with folder.lock():
        upload(folder, monkeypatch, run)
    assert run.statuses == []
    assert folder.read_record()["status"] == "running"


def test_without_a_server_the_folder_tells_the_truth_and_the_uploader_ends(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploader, "GRACE_SECONDS", 0.05)
    Journal(folder).metrics(1, {"loss": 1.0})
    with pytest.raises(GaveUpError):
        upload(folder, monkeypatch, FakeRun(Outage(10**9)), FakeTraining(3))
    assert folder.read_record()["status"] == "interrupted"


def test_a_server_that_lost_the_run_gets_all_of_it_again(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(folder)
    journal.metrics(1, {"loss": 1.0})
    journal.params({"a": 1})
    journal.metrics(2, {"loss": 2.0})
    journal.status("finished")
    lost = ConnectionError("no such run")
    lost.error_code = "RESOURCE_DOES_NOT_EXIST"  # type: ignore[attr-defined]
    run = FakeRun(Outage(0))
    fail = Outage(1, lost)
    run.log_params = fail  # type: ignore[method-assign, assignment]
    upload(folder, monkeypatch, run)
    assert [p.step for p in run.points] == [1, 1, 2]


def test_another_process_that_wants_to_send_the_rest_waits_for_training_only(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(folder)
    journal.metrics(1, {"loss": 1.0})
    journal.status("finished")
    run = FakeRun(Outage(0))
    training = FakeTraining(10)
    process = prepare(folder, monkeypatch, run, training)
    process.end_soon()
    process.run()
    assert run.statuses == ["finished"]
    training.num_looks = 0
    with pytest.raises(Replaced):
        process.end_soon()

    sent_record_path(folder).unlink()
    unsent = prepare(folder, monkeypatch, FakeRun(Outage(10**9)), FakeTraining(3))
    unsent.end_soon()
    with pytest.raises(GaveUpError, match="asked to end"):
        unsent.run()


def test_what_may_be_a_refusal_or_an_outage_is_tried_some_times(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(folder)
    journal.params({"a": 1})
    journal.status("finished")
    doubtful = ConnectionError("database error")
    doubtful.error_code = "BAD_REQUEST"  # type: ignore[attr-defined]
    recovered = FakeRun(Outage(3, doubtful))
    upload(folder, monkeypatch, recovered)
    assert recovered.params == {"a": "1"}

    sent_record_path(folder).unlink()
    refused = FakeRun(Outage(0))
    refused.log_params = Outage(10**9, doubtful)  # type: ignore[method-assign, assignment]
    process = upload(folder, monkeypatch, refused)
    assert refused.statuses == ["finished"]
    assert process._backlog.sender.counts.num_refused == 1


def test_a_run_that_cannot_be_marked_is_marked_on_the_server(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: RunFolder) -> bool:
        raise OSError(30, "Read-only file system")

    Journal(folder).metrics(1, {"loss": 1.0})
    monkeypatch.setattr(uploader, "mark_interrupted", refuse)
    run = FakeRun(Outage(0))
    upload(folder, monkeypatch, run)
    assert run.statuses == ["interrupted"]


@pytest.mark.parametrize("uri", ["http://me:hunter2@host:5000", "postgresql://me:hunter2@host/db", "http://host"])
def test_no_other_user_can_read_a_password(folder: RunFolder, monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    started: dict[str, Any] = {}

    def popen(command: list[str], **options: Any) -> None:
        started.update(command=command, **options)
        raise OSError("not here")

    monkeypatch.setattr(subprocess, "Popen", popen)
    start_uploader(folder, uri, "recipes", False)
    command = started["command"]
    assert "hunter2" not in " ".join(command)
    given = started["env"].get("RECIPE_EXP_TRACKING_URI") or command[command.index("--uri") + 1]
    assert given == uri
    assert started["env"]["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert started["start_new_session"]


TRAINING = """
import sys, time
from pathlib import Path
from recipe_exp.tracking import Journal, RunFolder, start_uploader
folder = RunFolder.open(Path(sys.argv[1]))
with folder.lock():
    handle = start_uploader(folder, None, "recipes", True)
    journal = Journal(folder)
    journal.params({"training.batch_size": 8})
    for step in range(1, 101):
        journal.metrics(step, {"train/loss": 1.0 / step})
    if sys.argv[2] == "killed":
        print("logged", handle.process_id, flush=True)
        time.sleep(120)
    journal.status("finished")
    print("sent" if handle.finish(120) else "unsent", flush=True)
"""


def train(folder: RunFolder, how: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", TRAINING, str(folder.path), how]
    return subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)


def run_entry(folder: RunFolder) -> Any:
    from mlflow import MlflowClient

    client = MlflowClient(default_uri(folder.output_dir))
    return client.get_run(folder.read_record()["mlflow"]["run_id"])


def wait_for_end(process_id: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            os.kill(process_id, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("the uploader did not end")


def steps_of(folder: RunFolder) -> list[int]:
    from mlflow import MlflowClient

    client = MlflowClient(default_uri(folder.output_dir))
    history = client.get_metric_history(folder.read_record()["mlflow"]["run_id"], "train/loss")
    return [metric.step for metric in history]


@pytest.mark.slow
def test_killing_training_loses_nothing_and_the_run_can_go_on(stored: Path) -> None:
    folder = RunFolder.create(stored, run_name="killed", command=["train"])
    training = train(folder, "killed")
    assert training.stdout is not None
    uploader_id = int(training.stdout.readline().split()[1])
    os.kill(uploader_id, signal.SIGINT)  # Ctrl-C reaches every process of a terminal
    training.kill()
    training.wait()
    wait_for_end(uploader_id)
    assert folder.read_record()["status"] == "interrupted"
    assert run_entry(folder).info.status == "KILLED"
    assert run_entry(folder).data.params == {"training.batch_size": "8"}
    assert steps_of(folder) == list(range(1, 101))

    with folder.lock():
        handle = start_uploader(folder, None, "recipes", False)
        journal = Journal(folder)
        journal.rewind(50)
        journal.status("running")
        for step in range(51, 121):
            journal.metrics(step, {"train/loss": 2.0 / step})
        journal.status("finished")
        assert handle.finish(120)
    assert run_entry(folder).info.status == "FINISHED"
    assert steps_of(folder) == list(range(1, 121))
    assert (folder.path / "uploader.log").read_text() == ""
    assert not (folder.path / "mlruns").exists()


@pytest.mark.long
def test_three_runs_share_a_fresh_database(output_dir: Path) -> None:
    names = ("one", "two", "three")
    folders = [RunFolder.create(output_dir, run_name=name, command=["train"]) for name in names]
    trainings = [train(folder, "finished") for folder in folders]
    assert [training.communicate(timeout=120)[0] for training in trainings] == [b"sent\n"] * 3
    for folder in folders:
        assert run_entry(folder).info.status == "FINISHED"
        assert steps_of(folder) == list(range(1, 101))
        assert (folder.path / "uploader.log").read_text() == ""
    assert len({folder.read_record()["mlflow"]["experiment_id"] for folder in folders}) == 1
    expected = {".mlflow.db.lock", "mlflow.db", "runs"}
    assert {path.name for path in output_dir.iterdir()} - {"mlartifacts"} == expected
