from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from recipe_exp.errors import TrackingError
from recipe_exp.files import boot_id, file_lock
from recipe_exp.tracking import Journal, RunFolder, start_uploader, sync
from recipe_exp.tracking.events import Artifact, Metrics, encode_event
from recipe_exp.tracking.locations import default_uri
from recipe_exp.tracking.mlflow_store import MlflowRun
from recipe_exp.tracking.sending_lock import uploader_lock_path


def client_of(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(uri)


def log_a_run(folder: RunFolder) -> None:
    journal = Journal(folder)
    journal.params({"training.batch_size": 8})
    journal.dataset("recipes", "abc", {"num_recipes": 3}, "training")
    for step in (10, 20, 30):
        journal.metrics(step, {"train/loss": 1.0 / step, "eval/loss": 2.0 / step})
    folder.model_path.mkdir()
    (folder.model_path / "model.safetensors").write_bytes(b"0" * 1_100_000)
    (folder.model_path / "config.json").write_text("{}")
    journal.artifact(folder.model_path)
    journal.artifact(folder.metrics_path, "record")
    folder.system_path.write_bytes(encode_event(Metrics(time.time(), 5, {"system/cpu_percent": 100.0})))
    journal.status("finished")
    journal.close()


@pytest.fixture
def finished(stored: Path) -> RunFolder:
    folder = RunFolder.create(stored, run_name="small", command=["train"])
    log_a_run(folder)
    return folder


def paths_under(client: Any, run_id: str, path: str | None = None) -> set[str]:
    found: set[str] = set()
    for entry in client.list_artifacts(run_id, path):
        found |= paths_under(client, run_id, entry.path) if entry.is_dir else {entry.path}
    return found


EXPECTED_PATHS = {"model/model.safetensors", "model/config.json", "record/metrics.jsonl"}


def check(uri: str, run_id: str) -> None:
    client = client_of(uri)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"training.batch_size": "8"}
    assert run.data.metrics["system/cpu_percent"] == 100.0
    assert [m.step for m in client.get_metric_history(run_id, "train/loss")] == [10, 20, 30]
    assert len(run.inputs.dataset_inputs) == 1
    assert paths_under(client, run_id) == EXPECTED_PATHS


def test_all_is_sent_once(finished: RunFolder, stored: Path) -> None:
    first = sync(finished, None, "recipes")
    assert (first.num_metrics, first.num_artifacts, first.num_refused) == (7, 3, 0)
    check(default_uri(stored), first.mlflow_run_id)
    second = sync(finished, None, "recipes")
    assert (second.mlflow_run_id, second.num_metrics, second.num_artifacts) == (first.mlflow_run_id, 0, 0)


def test_only_what_is_missing_is_sent(finished: RunFolder, stored: Path) -> None:
    run_id = sync(finished, None, "recipes").mlflow_run_id
    with finished.journal_path.open("ab") as stream:
        stream.write(encode_event(Metrics(2e9, 30, {"train/loss": 7.0, "eval/bleu": 0.5})))
    (finished.model_path / "config.json").write_text('{"a": 1}')
    report = sync(finished, None, "recipes")
    assert (report.num_metrics, report.num_artifacts) == (1, 1)
    assert client_of(default_uri(stored)).get_run(run_id).data.metrics["train/loss"] == pytest.approx(1 / 30)


def test_a_folder_of_another_machine_goes_into_this_store(finished: RunFolder, stored: Path) -> None:
    other = stored.parent / "other machine" / "outputs"
    (other / "runs").mkdir(parents=True)
    shutil.copy(stored / "mlflow.db", other)
    copied = other / "runs" / finished.path.name
    shutil.copytree(finished.path, copied)
    report = sync(RunFolder.open(copied), None, "recipes")
    assert (report.num_metrics, report.num_artifacts) == (7, 3)
    shutil.rmtree(finished.path)
    check(default_uri(other), report.mlflow_run_id)


def test_a_killed_run_is_settled_and_one_of_another_host_is_not(stored: Path) -> None:
    folder = RunFolder.create(stored, run_name="killed", command=["train"])
    Journal(folder).metrics(1, {"a": 1.0})
    folder.update_record(host="another-host", boot="another boot")
    client = client_of(default_uri(stored))
    assert client.get_run(sync(folder, None, "recipes").mlflow_run_id).info.status == "RUNNING"
    folder.update_record(host=socket.gethostname())
    assert client.get_run(sync(folder, None, "recipes").mlflow_run_id).info.status == "KILLED"
    assert folder.read_record()["status"] == "interrupted"


def test_a_killed_run_of_another_container_or_one_long_silent_is_settled(stored: Path) -> None:
    client = client_of(default_uri(stored))
    for name in ("container", "silent"):
        folder = RunFolder.create(stored, run_name=name, command=["train"])
        Journal(folder).metrics(1, {"a": 1.0})
        folder.update_record(host="another-host", boot=boot_id() if name == "container" else "another boot")
        if name == "silent":
            hours_ago = time.time() - 7 * 3600
            for path in (folder.journal_path, folder.record_path):
                os.utime(path, (hours_ago, hours_ago))
        assert client.get_run(sync(folder, None, "recipes").mlflow_run_id).info.status == "KILLED"


def test_a_folder_that_cannot_be_written_is_sent(
    finished: RunFolder, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(finished.path))

    # Whoever runs the tests may write everywhere.
    for place in ("sending_lock.file_lock", "run_folder.write_atomically", "sender.write_atomically"):
        monkeypatch.setattr(f"recipe_exp.tracking.{place}", refuse, raising=False)
    report = sync(finished, None, "recipes")
    assert (report.num_metrics, report.num_artifacts) == (7, 3)
    check(default_uri(stored), report.mlflow_run_id)


def test_a_file_that_is_gone_is_reported_and_costs_nothing_else(finished: RunFolder) -> None:
    (finished.path / "record.txt").write_text("x")
    Journal(finished).artifact(finished.path / "record.txt")
    (finished.path / "record.txt").unlink()
    report = sync(finished, None, "recipes")
    assert (report.num_metrics, report.num_artifacts, report.num_refused) == (7, 3, 1)
    assert "record.txt" in report.refusals[0]


@pytest.mark.parametrize("path", ["/etc/hostname", "../../../elsewhere", "link"])
def test_no_file_outside_of_the_folder_is_sent(path: str, finished: RunFolder) -> None:
    (finished.path.parents[2] / "elsewhere").write_text("not yours")
    (finished.path / "link").symlink_to("/etc/hostname")
    with finished.journal_path.open("ab") as stream:
        stream.write(encode_event(Artifact(time.time(), path)))
    report = sync(finished, None, "recipes")
    assert (report.num_artifacts, report.num_refused) == (3, 1)
    assert report.refusals == (f"{path}: lies outside of the run folder",)


def test_a_run_that_goes_on_and_another_sender_are_not_disturbed(finished: RunFolder) -> None:
    with file_lock(uploader_lock_path(finished)):
        with pytest.raises(TrackingError, match="another process is sending it"):
            sync(finished, None, "recipes")
        with finished.lock(), pytest.raises(TrackingError, match="is going on, and its own uploader sends it"):
            sync(finished, None, "recipes")


@pytest.mark.slow
def test_an_uploader_that_tries_in_vain_makes_room(finished: RunFolder, stored: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        handle = start_uploader(finished, f"http://127.0.0.1:{probe.getsockname()[1]}", "recipes", False)
        started = time.monotonic()
        assert not handle.finish(60)
        assert time.monotonic() - started < 30
    assert handle.process_id is not None
    assert psutil.pid_exists(handle.process_id)
    report = sync(finished, None, "recipes")
    assert (report.num_metrics, report.num_artifacts, report.status) == (7, 3, "finished")
    check(default_uri(stored), report.mlflow_run_id)
    wait_for_end(handle.process_id)


def wait_for_end(process_id: int) -> None:
    deadline = time.monotonic() + 20
    while psutil.pid_exists(process_id) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(process_id)


def test_a_model_that_is_too_large_is_pointed_to_unless_a_link_does(
    finished: RunFolder, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (finished.path / "large").mkdir()
    (finished.path / "large" / "weights").write_bytes(b"1" * 3_000_000)
    Journal(finished).artifact(finished.path / "large", max_upload_bytes=2_999_999)
    linked = sync(finished, None, "recipes")
    assert paths_under(client_of(default_uri(stored)), linked.mlflow_run_id) == EXPECTED_PATHS | {"large/weights"}

    elsewhere = f"sqlite:///{stored.parent / 'elsewhere.db'}"
    shutil.copy(stored / "mlflow.db", stored.parent / "elsewhere.db")
    monkeypatch.setattr(MlflowRun, "can_link", lambda *_: False)
    pointed = sync(finished, elsewhere, "others")
    client = client_of(elsewhere)
    assert paths_under(client, pointed.mlflow_run_id) == EXPECTED_PATHS
    tags = client.get_run(pointed.mlflow_run_id).data.tags
    assert tags["not_uploaded.large.path"] == str(finished.path / "large")
    assert tags["not_uploaded.large.host"] == socket.gethostname()
    assert tags["not_uploaded.large.gigabytes"] == "0.003"
    sync(finished, elsewhere, "others", max_upload_bytes=3_000_000)
    assert paths_under(client, pointed.mlflow_run_id) == EXPECTED_PATHS | {"large/weights"}


def test_a_server_that_is_down_is_one_line_at_once(finished: RunFolder) -> None:
    started = time.monotonic()
    with pytest.raises(TrackingError, match=r"tracking\.uri=http://127\.0\.0\.1:9") as caught:
        sync(finished, "http://me:hunter2@127.0.0.1:9", "recipes")
    assert time.monotonic() - started < 10
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, _empty_store: Path) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(_empty_store / "mlflow.db", folder / "server.db")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder}/server.db"]
    command += ["--artifacts-destination", str(folder / "artifacts"), "--port", str(port), "--workers", "1"]
    light = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **light}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def wait_until_healthy(uri: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the server did not start")


@pytest.mark.slow
def test_a_real_server_gets_everything_from_the_uploader_and_sync_finds_nothing_to_add(
    server: str, folder: RunFolder
) -> None:
    handle = start_uploader(folder, server, "served", False)
    log_a_run(folder)
    assert handle.finish(60)
    run_id = folder.read_record()["mlflow"]["run_id"]
    assert folder.read_record()["mlflow"]["uri"] == server
    check(server, run_id)
    report = sync(folder, server, "served")
    assert (report.mlflow_run_id, report.num_metrics, report.num_artifacts) == (run_id, 0, 0)
    check(server, run_id)
    assert not (folder.output_dir / "mlflow.db").exists()
    assert not (folder.output_dir / "mlartifacts").exists()
