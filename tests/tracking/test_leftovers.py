"""What is left of ended runs, sent to a real database."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from recipe_exp.files import file_lock
from recipe_exp.tracking import Journal, RunFolder, is_tracked, list_runs, mark_interrupted, send_leftovers
from recipe_exp.tracking.locations import default_uri
from recipe_exp.tracking.mlflow_store import MlflowStore
from recipe_exp.tracking.sender import Backlog, open_run, target_of, uploader_log_path
from recipe_exp.tracking.sending_lock import uploader_lock_path


def client_of(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(uri)


def cut_off(output_dir: Path, uri: str, name: str = "cut") -> RunFolder:
    """A run that was half sent when the power failed."""
    folder = RunFolder.create(output_dir, run_name=name, command=["train"])
    uploader_log_path(folder).touch()
    journal = Journal(folder)
    journal.status("running")
    journal.params({"a": 1})
    journal.metrics(1, {"loss": 1.0})
    store = MlflowStore.open(uri, "recipes", output_dir)
    run = open_run(store, folder)
    backlog = Backlog(folder, target_of(store.public_uri, store.experiment_id, run.run_id))
    for call in backlog.calls() or ():
        call(run)
    backlog.remember()
    journal.metrics(2, {"loss": 2.0})
    with folder.journal_path.open("ab") as stream:
        stream.write(b'{"event":"metr')
    return folder


def sent(uri: str, folder: RunFolder) -> tuple[str, list[int]]:
    client = client_of(uri)
    run_id = folder.read_record()["mlflow"]["run_id"]
    steps = [metric.step for metric in client.get_metric_history(run_id, "loss")]
    return client.get_run(run_id).info.status, steps


def test_a_power_cut_is_told_where_the_run_was_sent(stored: Path) -> None:
    uri = default_uri(stored)
    folder = cut_off(stored, uri)
    assert sent(uri, folder) == ("RUNNING", [1])
    assert send_leftovers([folder], uri)
    assert sent(uri, folder) == ("RUNNING", [1])
    assert mark_interrupted(folder)
    assert send_leftovers([folder], uri)
    assert sent(uri, folder) == ("KILLED", [1, 2])
    client = client_of(uri)
    run_id = folder.read_record()["mlflow"]["run_id"]
    ended = client.get_run(run_id).info.end_time / 1000
    assert abs(ended - folder.journal_path.stat().st_mtime) < 60


def test_a_run_whose_status_the_watchdog_set_is_told_too(stored: Path) -> None:
    uri = default_uri(stored)
    folder = cut_off(stored, uri)
    folder.update_record(status="interrupted", stop_reason="stalled")
    assert not mark_interrupted(folder)
    assert send_leftovers([folder], uri)
    assert sent(uri, folder)[0] == "KILLED"
    assert not mark_interrupted(folder)


def test_each_run_goes_to_its_own_server_and_a_dead_one_is_asked_once(
    stored: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = f"sqlite:///{stored / 'other.db'}"
    shutil.copy(stored / "mlflow.db", stored / "other.db")
    here, there = cut_off(stored, default_uri(stored)), cut_off(stored, other)
    lost = [cut_off(stored, default_uri(stored)) for _ in range(2)]
    for folder in (here, there, *lost):
        mark_interrupted(folder)
    for folder in lost:
        place = {**folder.read_record()["mlflow"], "uri": "http://127.0.0.1:9"}
        folder.update_record(mlflow=place)
    with caplog.at_level(logging.WARNING, "recipe_exp.uploader"):
        assert send_leftovers(list_runs(stored), default_uri(stored))
    assert sent(default_uri(stored), here) == ("KILLED", [1, 2])
    assert sent(other, there) == ("KILLED", [1, 2])
    assert len(caplog.records) == 1


def test_a_database_that_was_moved_with_its_runs_is_found(stored: Path, tmp_path: Path) -> None:
    folder = cut_off(stored, default_uri(stored))
    mark_interrupted(folder)
    moved = tmp_path / "moved"
    shutil.move(stored, moved)
    (folder,) = list_runs(moved)
    assert send_leftovers([folder], default_uri(moved))
    assert sent(default_uri(moved), folder) == ("KILLED", [1, 2])
    assert folder.read_record()["mlflow"]["uri"] == default_uri(moved)
    assert not (stored / "mlflow.db").exists()


def test_nothing_is_created_for_a_run_that_the_server_no_longer_knows(stored: Path) -> None:
    uri = default_uri(stored)
    folder = cut_off(stored, uri)
    mark_interrupted(folder)
    client = client_of(uri)
    client.delete_run(folder.read_record()["mlflow"]["run_id"])
    asked: list[bool] = []
    assert send_leftovers([folder], uri, stop=lambda: bool(asked.append(True)))
    assert client.search_runs(["1"]) == []
    assert send_leftovers([folder], uri, stop=lambda: bool(asked.append(True)))
    assert len(asked) == 1


def test_what_another_process_sends_or_nobody_wanted_sent_is_left(stored: Path) -> None:
    uri = default_uri(stored)
    busy, untracked = cut_off(stored, uri), cut_off(stored, uri)
    untracked.config_path.write_text("tracking: {enabled: false}\n")
    assert is_tracked(busy)
    assert not is_tracked(untracked)
    for folder in (busy, untracked):
        mark_interrupted(folder)
    with file_lock(uploader_lock_path(busy)):
        assert send_leftovers([busy, untracked], uri)
    assert sent(uri, busy)[0] == sent(uri, untracked)[0] == "RUNNING"


def test_asked_to_stop_it_says_that_something_may_be_left(stored: Path) -> None:
    folder = cut_off(stored, default_uri(stored))
    mark_interrupted(folder)
    assert not send_leftovers([folder], default_uri(stored), stop=lambda: True)
