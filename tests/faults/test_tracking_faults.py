"""Trackers that fail in every way, under real runs: training never notices, and in the end all of it is there once."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest
from trackers import (
    MlflowServer,
    Postgres,
    PostgresDatabase,
    Proxy,
    SqliteDatabase,
    check_complete,
    locked,
    stored_steps,
    wait_for,
)

from recipe_exp.config.tracking import TrackingConfig
from recipe_exp.tasks.doctor.findings import Finding
from recipe_exp.tasks.doctor.tracking import check_tracking
from recipe_exp.tracking import RunFolder, list_runs, sync
from recipe_exp.tracking.database import schema_of

Database = SqliteDatabase | PostgresDatabase

PACE = """
import time
from recipe_exp import Callback

class Slow(Callback):
    def on_step_end(self, trainer, result):
        time.sleep(0.04)
"""
RUN = (
    "data.max_examples=200",
    "data.validation_fraction=0.1",
    "data.test_fraction=0.05",
    "data.max_target_tokens=64",
    "model.shape.d_model=16",
    "model.shape.d_ff=24",
    "model.shape.d_kv=4",
    "model.shape.vocab_size=700",
    "training.batch_size=4",
    "training.warmup_steps=2",
    "training.num_epochs=100",
    "training.log_every_n_steps=1",
    "training.checkpoint_every_n_steps=null",
    "training.callbacks=[slow:Slow]",
    "evaluation.every_n_steps=100",
    "evaluation.max_examples=4",
    "evaluation.max_generated_examples=2",
    "evaluation.max_new_tokens=8",
    "hardware=cpu",
    "hardware.num_threads=1",
    "hardware.num_workers=1",
    "hardware.micro_batch_tokens=512",
)
FILES = ("config.yaml", "samples.jsonl", "model/model.safetensors")

pytestmark = pytest.mark.timeout(600)


class Training:
    """A training command in a process of its own."""

    started: ClassVar[list[Training]] = []

    def __init__(self, here: Path, *overrides: str, uri: str | None, cache: Path, run_name: str = "run") -> None:
        here.mkdir(parents=True, exist_ok=True)
        (here / "slow.py").write_text(PACE)
        self.here = here
        self.output_dir = here / "outputs"
        self.run_name = run_name
        places = [f"data.cache_dir={cache}", f"run_name={run_name}"]
        places += [f"tracking.uri={uri}"] if uri is not None else []
        self.log = here / f"{run_name}.log"
        self.process = self._start([*RUN, *places, *overrides])
        self.started.append(self)

    def wait_for_journal(self, num_steps: int) -> RunFolder:
        """Wait until so many steps are in the journal."""

        def is_there() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return any(
                len(run.metrics_path.read_bytes().splitlines()) >= num_steps
                for run in self.runs()
                if run.metrics_path.exists()
            )

        wait_for(is_there, 300, f"{num_steps} steps")
        return self.folder

    def wait_for_rows(self, database: Database, num_steps: int) -> RunFolder:
        """Wait until so many steps of the loss are in the tracker's database."""
        folder = self.wait_for_journal(1)

        def is_there() -> bool:
            return sum(name == "train/loss" for name, _ in stored_steps(database, folder)) >= num_steps

        wait_for(is_there, 300, f"{num_steps} rows")
        return folder

    def end(self, exit_code: int = 0) -> str:
        """Wait for the end; returns what was shown."""
        assert self.process.wait(240) == exit_code, self.log.read_text()
        return self.log.read_text()

    def runs(self) -> list[RunFolder]:
        return [run for run in list_runs(self.output_dir) if run.path.name.endswith(f"-{self.run_name}")]

    @property
    def folder(self) -> RunFolder:
        (folder,) = self.runs()
        return folder

    def uploader(self) -> psutil.Process:
        """The process that sends this run."""
        return next(self.uploaders())

    def uploaders(self) -> Iterator[psutil.Process]:
        """Every process that sends a run of this command, also when training is gone."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                if "recipe_exp.tracking.uploader" in words and any(str(self.here) in word for word in words):
                    yield process

    def _start(self, overrides: list[str]) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "recipe_exp", *overrides], cwd=self.here, stdout=log, stderr=log
            )


def command_sync(here: Path, *overrides: str) -> str:
    """`task=sync`; returns what it shows."""
    done = subprocess.run(
        [sys.executable, "-m", "recipe_exp", "task=sync", *overrides],
        cwd=here,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    if not Postgres.is_installed():
        pytest.skip("no pg_ctl, or no psycopg")
    server = Postgres(tmp_path_factory.mktemp("postgres") / "server")
    yield server
    server.stop()


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """`mlflow server` on a database of each kind."""
    folder = tmp_path_factory.mktemp(request.param)
    database: Database = SqliteDatabase(folder / "server.db")
    if request.param == "postgres":
        database = request.getfixturevalue("postgres").create("tracking")
    server = MlflowServer(database, folder)
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    """A test that fails must not leave its trainings and their uploaders to those after it."""
    yield
    for training in Training.started:
        for process in (*training.uploaders(), training.process):
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                process.kill()
        training.process.wait()
    Training.started.clear()


@pytest.fixture
def running(server: MlflowServer) -> MlflowServer:
    if server.process is None:
        server.start()
    return server


def settle(training: Training, server: MlflowServer, uri: str) -> None:
    """What is missing is sent, nothing is missing after it, and nothing is there twice."""
    folder = training.folder
    sync(folder, uri, "recipes")
    report = sync(folder, uri, "recipes")
    assert (report.num_metrics, report.num_artifacts, report.status) == (0, 0, "finished")
    assert len(list(folder.metrics_path.read_bytes().splitlines())) >= 300
    check_complete(server.database, folder, artifacts=server.folder, files=FILES)


@pytest.mark.faults_full
def test_server_is_down_at_the_start(server: MlflowServer, tmp_path: Path, cache_dir: Path) -> None:
    server.kill()
    training = Training(tmp_path, "training.max_steps=300", uri=server.url, cache=cache_dir)
    training.wait_for_journal(50)
    server.start()
    training.end()
    settle(training, server, server.url)


@pytest.mark.faults_full
def test_server_is_killed_and_started_again(running: MlflowServer, tmp_path: Path, cache_dir: Path) -> None:
    training = Training(tmp_path, "training.max_steps=300", uri=running.url, cache=cache_dir)
    training.wait_for_rows(running.database, 30)
    running.kill()
    time.sleep(3)
    running.start()
    training.end()
    settle(training, running, running.url)


@pytest.mark.faults_full
def test_server_hangs_for_a_while(running: MlflowServer, tmp_path: Path, cache_dir: Path) -> None:
    training = Training(tmp_path, "training.max_steps=600", uri=running.url, cache=cache_dir)
    training.wait_for_rows(running.database, 30)
    running.freeze()
    try:
        time.sleep(15)
    finally:
        running.thaw()
    training.end()
    settle(training, running, running.url)


@pytest.mark.faults_full
def test_server_hangs_from_start_to_end(running: MlflowServer, tmp_path: Path, cache_dir: Path) -> None:
    running.freeze()
    try:
        training = Training(tmp_path, "training.max_steps=300", uri=running.url, cache=cache_dir)
        folder = training.wait_for_journal(300)
        wait_for(lambda: folder.read_record()["status"] == "finished", 60, "the end of the run")
        ended = time.monotonic()
        shown = training.end()
        # Five seconds, and what a process takes to leave a busy machine; the limit is a minute.
        assert time.monotonic() - ended < 15
        assert "the tracker is behind" in shown
    finally:
        running.thaw()
    settle(training, running, running.url)


@pytest.mark.faults_full
@pytest.mark.parametrize("mode", ["500", "hang"])
def test_server_answers_with_errors_or_not_at_all(
    running: MlflowServer, tmp_path: Path, cache_dir: Path, mode: Any
) -> None:
    proxy = Proxy(running)
    training = Training(tmp_path, "training.max_steps=500", uri=proxy.url, cache=cache_dir)
    training.wait_for_rows(running.database, 30)
    proxy.mode = mode
    time.sleep(12)
    assert proxy.num_disturbed > 0
    proxy.mode = "pass"
    training.end()
    settle(training, running, proxy.url)
    proxy.close()


@pytest.mark.faults_full
def test_every_other_answer_is_lost(running: MlflowServer, tmp_path: Path, cache_dir: Path) -> None:
    proxy = Proxy(running)
    proxy.mode = "lost"
    training = Training(tmp_path, "training.max_steps=300", uri=proxy.url, cache=cache_dir)
    training.end()
    # How many requests there are depends on how much each of them takes along.
    assert proxy.num_disturbed >= 3
    proxy.mode = "pass"
    settle(training, running, proxy.url)
    proxy.close()


@pytest.mark.faults_full
def test_server_is_gone_and_a_copied_folder_goes_into_another_one(
    running: MlflowServer, tmp_path: Path, cache_dir: Path
) -> None:
    training = Training(tmp_path / "here", "training.max_steps=300", uri=running.url, cache=cache_dir)
    training.wait_for_rows(running.database, 30)
    running.kill()
    assert "the tracker is behind" in training.end()
    there = tmp_path / "there" / "outputs" / "runs" / training.folder.path.name
    shutil.copytree(training.folder.path, there)
    training_folder = training.folder.path
    # It still tries; a machine that is switched off ends it.
    for process in training.uploaders():
        process.kill()
        process.wait(10)
    shutil.rmtree(training_folder)
    RunFolder.open(there).update_record(host="another-machine", boot="another boot")
    other = MlflowServer(SqliteDatabase(tmp_path / "other.db"), tmp_path / "other")
    other.start()
    try:
        shown = command_sync(tmp_path / "there", f"tracking.uri={other.url}", f"task.runs=[{there}]")
        assert "recorded as finished" in shown
        check_complete(other.database, RunFolder.open(there), artifacts=other.folder, files=FILES)
    finally:
        other.kill()


@pytest.mark.faults_full
def test_uploader_is_killed(running: MlflowServer, tmp_path: Path, cache_dir: Path) -> None:
    training = Training(tmp_path, "training.max_steps=300", uri=running.url, cache=cache_dir)
    training.wait_for_rows(running.database, 30)
    training.uploader().kill()
    shown = training.end()
    assert "the tracker is behind" not in shown
    check_complete(running.database, training.folder, artifacts=running.folder, files=FILES)


@pytest.mark.faults_full
def test_power_cut_is_told_by_the_next_run(running: MlflowServer, tmp_path: Path, cache_dir: Path) -> None:
    cut = Training(tmp_path, "training.max_steps=300", uri=running.url, cache=cache_dir, run_name="cut")
    folder = cut.wait_for_rows(running.database, 30)
    uploader = cut.uploader()
    for process in (uploader, cut.process):
        process.kill()
    cut.process.wait()
    assert folder.read_record()["status"] == "running"
    after = Training(tmp_path, "training.max_steps=20", uri=running.url, cache=cache_dir, run_name="after")
    after.end()
    assert folder.read_record()["status"] == "interrupted"

    def is_settled() -> bool:
        query = "SELECT status FROM runs WHERE run_uuid = ?"
        return running.database.rows(query, folder.read_record()["mlflow"]["run_id"]) == [("KILLED",)]

    wait_for(is_settled, 60, "the status of the run that was killed")
    check_complete(running.database, folder, artifacts=running.folder, files=FILES[:1], status="KILLED")


@pytest.mark.faults_full
def test_resumed_run_is_stored_once(running: MlflowServer, tmp_path: Path, cache_dir: Path) -> None:
    overrides = ("training.max_steps=300", "training.checkpoint_every_n_steps=50", "resume=latest")
    first = Training(tmp_path, *overrides, uri=running.url, cache=cache_dir)
    folder = first.wait_for_journal(130)
    # Training would be done before an uploader on a busy machine has sent as much.
    first.process.send_signal(signal.SIGSTOP)
    first.wait_for_rows(running.database, 120)
    first.process.kill()
    first.process.wait()
    saved = max(int(path.name.removeprefix("step-")) for path in (folder.path / "checkpoints").glob("step-*"))
    second = Training(tmp_path, *overrides, uri=running.url, cache=cache_dir)
    shown = second.end()
    assert f"continuing at step {saved}" in shown
    rows = map(json.loads, second.folder.metrics_path.read_text().splitlines())
    steps = [row["step"] for row in rows if "train/loss" in row["metrics"]]
    assert steps == [*range(1, 301)]
    settle(second, running, running.url)


@pytest.mark.faults_full
def test_sqlite_is_locked_by_another_process(tmp_path: Path, cache_dir: Path) -> None:
    training = Training(tmp_path, "training.max_steps=500", uri=None, cache=cache_dir)
    training.wait_for_journal(1)
    database = SqliteDatabase(training.output_dir / "mlflow.db")
    training.wait_for_rows(database, 30)
    # Longer than MLflow itself waits for the lock.
    with locked(database.path):
        time.sleep(24)
    training.end()
    command_sync(tmp_path)
    check_complete(database, training.folder, artifacts=training.output_dir, files=FILES)


@pytest.mark.faults_full
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_four_runs_race_for_a_fresh_database(
    kind: str, tmp_path: Path, cache_dir: Path, request: pytest.FixtureRequest
) -> None:
    database: Database = SqliteDatabase(tmp_path / "outputs" / "mlflow.db")
    uri = None
    if kind == "postgres":
        database = request.getfixturevalue("postgres").create("raced")
        uri = database.uri
    names = ("one", "two", "three", "four")
    trainings = [
        Training(tmp_path, "training.max_steps=100", uri=uri, cache=cache_dir, run_name=name) for name in names
    ]
    for training in trainings:
        training.end()
    command_sync(tmp_path, *([f"tracking.uri={uri}"] if uri else []))
    for training in trainings:
        check_complete(database, training.folder, artifacts=tmp_path, files=FILES)
    experiments = database.rows("SELECT COUNT(*) FROM experiments WHERE name = 'recipes'")
    assert experiments == [(1,)]


@pytest.mark.faults_full
def test_ctrl_c_ends_the_wait_and_not_the_run(tmp_path: Path, cache_dir: Path) -> None:
    training = Training(tmp_path, "training.max_steps=300", uri=None, cache=cache_dir)
    training.wait_for_journal(1)
    database = SqliteDatabase(training.output_dir / "mlflow.db")
    folder = training.wait_for_rows(database, 30)
    with locked(database.path):
        wait_for(lambda: folder.read_record()["status"] == "finished", 120, "the end of the run")
        time.sleep(1)
        assert training.process.poll() is None
        training.process.send_signal(2)
        started = time.monotonic()
        shown = training.end(exit_code=0)
        assert time.monotonic() - started < 3
    assert "task=sync" in shown
    assert folder.read_record()["status"] == "finished"
    command_sync(tmp_path)
    check_complete(database, folder, artifacts=training.output_dir, files=FILES)


def examine(uri: str, here: Path) -> Finding:
    """What the doctor says of a tracker."""
    (finding,) = check_tracking(TrackingConfig(uri=uri), here)
    return finding


def test_the_doctor_tries_postgres(postgres: Postgres, tmp_path: Path) -> None:
    database = postgres.create("examined")
    assert "can be written, its tables will be made" in examine(database.uri, tmp_path).text
    database.change("CREATE TABLE alembic_version (version_num TEXT)", "CREATE TABLE experiments (name TEXT)")
    database.change("INSERT INTO alembic_version VALUES ('770bee3ae1dd')")
    outdated = examine(database.uri, tmp_path)
    assert outdated.status == "fail"
    assert "mlflow db upgrade postgresql://" in outdated.fix
    newest = schema_of(None).expected
    database.change(f"UPDATE alembic_version SET version_num = '{newest}'")
    assert examine(database.uri, tmp_path).status == "ok"
    database.change("CREATE ROLE reader LOGIN", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
    reading = examine(database.uri.replace("tester@", "reader@"), tmp_path)
    assert (reading.status, "permission denied" in reading.text) == ("fail", True)
    database.change("ALTER ROLE tester SET default_transaction_read_only = on")
    try:
        standby = examine(database.uri, tmp_path)
        assert (standby.status, "read-only transaction" in standby.text) == ("fail", True)
    finally:
        database.change("SET default_transaction_read_only = off", "ALTER ROLE tester RESET ALL")


STAND_IN = """
import itertools, select, sys, time
from pathlib import Path
from recipe_exp.tracking import Journal, RunFolder, start_uploader
folder = RunFolder.open(Path(sys.argv[1]))
with folder.lock():
    handle = start_uploader(folder, sys.argv[2] or None, "recipes", False)
    journal = Journal(folder)
    journal.status("running")
    journal.params({"training.batch_size": 8})
    journal.dataset("recipes", "abc", {"num_recipes": 3}, "training")
    for step in itertools.count(1):
        journal.metrics(step, {"train/loss": 1.0 / step, "train/grad_norm": 2.0})
        time.sleep(0.03)
        if step >= 200 and select.select([sys.stdin], [], [], 0)[0]:
            break
    journal.artifact(folder.metrics_path)
    journal.status("finished")
    journal.close()
    print("sent" if handle.finish(150) else "unsent", flush=True)
"""


@pytest.fixture(scope="module")
def light_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    folder = tmp_path_factory.mktemp("light")
    server = MlflowServer(SqliteDatabase(folder / "server.db"), folder)
    server.start()
    yield server
    server.kill()


def stand_in(here: Path, uri: str) -> tuple[RunFolder, subprocess.Popen[str]]:
    """A process that logs as a training does, without learning anything, until its standard input ends."""
    folder = RunFolder.create(here, run_name="light", command=["train"])
    command = [sys.executable, "-c", STAND_IN, str(folder.path), uri]
    return folder, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_lost_answers_and_a_killed_uploader_cost_nothing(light_server: MlflowServer, tmp_path: Path) -> None:
    proxy = Proxy(light_server)
    folder, process = stand_in(tmp_path, proxy.url)
    wait_for(lambda: len(stored_steps(light_server.database, folder)) > 0, 60, "some rows")
    proxy.mode = "lost"
    wait_for(lambda: proxy.num_disturbed > 1, 60, "lost answers")
    (uploader,) = psutil.Process(process.pid).children()
    uploader.kill()
    assert process.communicate(timeout=240)[0] == "sent\n"
    check_complete(light_server.database, folder, artifacts=light_server.folder, files=["metrics.jsonl"])
    proxy.close()


def test_hung_server_is_left_after_seconds_and_sync_sends_all(light_server: MlflowServer, tmp_path: Path) -> None:
    proxy = Proxy(light_server)
    proxy.mode = "hang"
    folder, process = stand_in(tmp_path, proxy.url)
    assert process.communicate(timeout=60)[0] == "unsent\n"
    proxy.mode = "pass"
    # The uploader waits for an answer that never comes, and leaves at once when it is asked to.
    started = time.monotonic()
    assert sync(folder, proxy.url, "recipes").status == "finished"
    assert time.monotonic() - started < 12
    assert sync(folder, proxy.url, "recipes").num_metrics == 0
    check_complete(light_server.database, folder, artifacts=light_server.folder, files=["metrics.jsonl"])
    proxy.close()
