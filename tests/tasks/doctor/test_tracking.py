from __future__ import annotations

import base64
import contextlib
import http.server
import json
import os
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recipe_exp.config.tracking import TrackingConfig
from recipe_exp.tasks.doctor import tracking
from recipe_exp.tasks.doctor.findings import Finding
from recipe_exp.tracking.mlflow_store import MlflowStore

# Of MLflow 3.1, some revisions before the installed one.
OLDER = "770bee3ae1dd"
ACTIVE = json.dumps({"experiment": {"experiment_id": "7", "lifecycle_stage": "active"}})


class Server(http.server.ThreadingHTTPServer):
    """Answers /health with `health`, and the API with `api` and `answer` if the right password is sent.

    What is posted it answers with `posted`, and remembers which address it was for.
    """

    health, api, answer, password = 200, 404, "{}", ""
    posted = 200

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.addressed: list[str] = []


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        sent = base64.b64decode((self.headers["Authorization"] or "").partition("Basic ")[2]).decode()
        if self.path == "/health":
            self.reply(self.server.health, "OK")
        elif self.server.password and sent != f"me:{self.server.password}":
            self.reply(401, "who are you?")
        elif self.path.startswith("/api/2.0/mlflow/experiments/get-by-name?experiment_name=my%20recipes"):
            self.reply(self.server.api, self.server.answer)
        else:
            self.reply(404, "")

    def do_POST(self) -> None:
        self.server.addressed.append(self.path)
        tag = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        is_there = tag["experiment_id"] == "7"
        self.reply(self.server.posted if is_there or self.server.posted != 200 else 404, "{}")

    def reply(self, status: int, content: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(content.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as answering:
        threading.Thread(target=answering.serve_forever, daemon=True).start()
        yield answering
        answering.shutdown()


def found(uri: str | None, output_dir: Path) -> Finding:
    (finding,) = tracking.check_tracking(TrackingConfig(uri=uri, experiment="my recipes"), output_dir)
    return finding


def address(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def test_a_server_that_answers_and_permits(server: Server, tmp_path: Path) -> None:
    expected = f"{address(server)} answers and takes changes; the experiment is made by the first run"
    assert found(address(server), tmp_path) == Finding("tracking", "ok", expected)
    server.api, server.answer = 200, ACTIVE
    assert found(address(server), tmp_path).text == f"{address(server)} answers and takes changes"
    assert set(server.addressed) == {"/api/2.0/mlflow/experiments/set-experiment-tag"}


@pytest.mark.parametrize("is_there", [True, False])
@pytest.mark.parametrize(
    ("answer", "fix"), [(403, "MLFLOW_TRACKING_PASSWORD"), (405, "the server's log"), (500, "the server's log")]
)
def test_a_server_that_takes_no_change(server: Server, tmp_path: Path, answer: int, fix: str, is_there: bool) -> None:
    server.posted = answer
    if is_there:
        server.api, server.answer = 200, ACTIVE
    finding = found(address(server), tmp_path)
    assert (finding.status, str(answer) in finding.text, fix in finding.fix) == ("fail", True, True)


@pytest.mark.slow
def test_a_real_server_is_written_to_and_one_whose_database_became_read_only_is_found(tmp_path: Path) -> None:
    MlflowStore.open(f"sqlite:///{tmp_path}/server.db", "my recipes", tmp_path)
    with real_server(tmp_path, tmp_path / "server.db") as url:
        assert found(url, tmp_path) == Finding("tracking", "ok", f"{url} answers and takes changes")
        ((value,),) = rows_of(
            tmp_path / "server.db", "SELECT value FROM experiment_tags WHERE key = 'recipe_exp.doctor'"
        )
        assert float(str(value)) > 1.7e9
        with sqlite3.connect(tmp_path / "server.db") as connection:
            connection.execute(
                "CREATE TRIGGER refuse BEFORE UPDATE ON experiment_tags BEGIN SELECT RAISE(ABORT, 'read-only'); END"
            )
        connection.close()
        refusing = found(url, tmp_path)
        assert (refusing.status, "takes no change" in refusing.text) == ("fail", True)


@contextlib.contextmanager
def real_server(folder: Path, database: Path) -> Iterator[str]:
    """`mlflow server` on a database."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{database}"]
    command += ["--port", str(port), "--workers", "1"]
    light = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            command, cwd=folder, env={**os.environ, **light}, stdout=log, stderr=log, start_new_session=True
        ) as process,
    ):
        try:
            deadline = time.monotonic() + 120
            while tracking._ask(f"http://127.0.0.1:{port}/health")[0] != 200:
                assert time.monotonic() < deadline
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_server_that_wants_a_password(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.password = "sesame"
    refused = found(address(server), tmp_path)
    assert refused.status == "fail"
    assert "401" in refused.text
    assert "MLFLOW_TRACKING_PASSWORD" in refused.fix
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "sesame")
    assert found(address(server), tmp_path).status == "ok"


def test_an_experiment_that_was_deleted(server: Server, tmp_path: Path) -> None:
    server.api, server.answer = 200, json.dumps({"experiment": {"lifecycle_stage": "deleted"}})
    assert found(address(server), tmp_path).status == "fail"


def test_servers_that_are_ill_silent_or_no_tracker(server: Server, tmp_path: Path) -> None:
    elsewhere = found(f"{address(server)}/elsewhere", tmp_path)
    assert (elsewhere.status, "404" in elsewhere.text) == ("warn", True)
    server.health = 500
    assert found(address(server), tmp_path).status == "warn"
    silent = found("http://127.0.0.1:9", tmp_path)
    assert silent.status == "warn"
    assert "task=sync" in silent.fix


def test_no_tracker_and_one_that_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (off,) = tracking.check_tracking(TrackingConfig(enabled=False), tmp_path)
    assert off.text.startswith("off")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker")
    unread, _ = tracking.check_tracking(TrackingConfig(), tmp_path)
    assert (unread.status, "tracking.uri" in unread.fix) == ("warn", True)


def test_a_database_that_is_not_there_yet_leaves_no_trace(tmp_path: Path) -> None:
    assert found(None, tmp_path / "outputs").status == "ok"
    assert list(tmp_path.iterdir()) == []


def test_a_database_of_the_installed_mlflow_is_current_and_stays_as_it_is(tmp_path: Path) -> None:
    MlflowStore.open(None, "recipes", tmp_path)
    before = (tmp_path / "mlflow.db").read_bytes()
    finding = found(None, tmp_path)
    assert (finding.status, "can be written, tables of revision" in finding.text) == ("ok", True)
    assert (tmp_path / "mlflow.db").read_bytes() == before


def test_a_database_of_an_earlier_mlflow_is_copied_and_the_command_that_is_named_mends_it(tmp_path: Path) -> None:
    database = tmp_path / "my outputs" / "mlflow.db"
    make_database_of_revision(database, OLDER)
    finding = found(None, database.parent)
    assert finding.status == "fail"
    assert OLDER in finding.text
    copy = database.with_name(f"mlflow.db.{OLDER}.backup")
    assert rows_of(copy, "SELECT version_num FROM alembic_version") == [(OLDER,)]
    assert rows_of(copy, "SELECT name FROM experiments") == [("old times",)]
    assert rows_of(database, "SELECT version_num FROM alembic_version") == [(OLDER,)], "upgraded without being asked"
    first, *rest = shlex.split(finding.fix)
    assert (first, rest[:2]) == ("mlflow", ["db", "upgrade"])
    subprocess.run([sys.executable, "-m", "mlflow", *rest], check=True, capture_output=True)
    assert found(None, database.parent).status == "ok"
    assert rows_of(database, "SELECT name FROM experiments") == [("old times",)]


def make_database_of_revision(database: Path, revision: str) -> None:
    """Does what an earlier MLflow did with a fresh file."""
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base
    from sqlalchemy import create_engine

    database.parent.mkdir()
    engine = create_engine(f"sqlite:///{database}")
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        config = _get_alembic_config(f"sqlite:///{database}")
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()
    with sqlite3.connect(database) as opened:
        opened.execute("INSERT INTO experiments (name, lifecycle_stage) VALUES ('old times', 'active')")
    opened.close()


def rows_of(database: Path, query: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(database)
    rows = connection.execute(query).fetchall()
    connection.close()
    return rows


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "mlflow.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES ('of_tomorrow')")
    connection.close()
    return path


def test_a_database_of_a_later_mlflow_asks_for_that(database: Path) -> None:
    finding = found(None, database.parent)
    assert (finding.status, finding.fix[:28]) == ("fail", "pip install --upgrade mlflow")
    assert [path.name for path in database.parent.iterdir()] == ["mlflow.db"]


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("not a database, though long enough to look like one" * 100)
    assert found(None, tmp_path).status == "fail"


def test_a_database_that_is_locked_or_read_only(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipe_exp.tracking.database._BUSY_SECONDS", 0.1)
    with sqlite3.connect(database) as connection:
        connection.execute("DELETE FROM alembic_version")
    connection.execute("BEGIN IMMEDIATE")
    locked = found(None, database.parent)
    assert (locked.status, "locked" in locked.text) == ("warn", True)
    connection.close()
    assert found(None, database.parent).status == "ok"
    monkeypatch.setattr("recipe_exp.tracking.database.try_writing", refuse)
    assert found(None, database.parent).status == "fail"


def refuse(_database: Path) -> None:
    raise sqlite3.OperationalError("attempt to write a readonly database")


def test_a_database_on_a_network_disk_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "network_file_system", lambda _: "nfs4")
    _, warning = tracking.check_tracking(TrackingConfig(), tmp_path)
    assert warning.status == "warn"
    assert "nfs4" in warning.text
    assert "tracking.uri" in warning.fix


def test_a_database_whose_driver_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    finding = found("postgresql+psycopg2://me@host/runs", tmp_path)
    assert finding.status == "fail"
    assert finding.text == "postgresql+psycopg2://host/runs: its driver psycopg2 is not installed"
    assert finding.fix.startswith("install the package")


def test_a_database_of_another_kind_is_changed_for_a_moment(tmp_path: Path) -> None:
    place = f"sqlite+pysqlite:///{tmp_path}"
    empty = found(f"{place}/runs.db", tmp_path)
    assert (empty.status, "can be written, its tables will be made" in empty.text) == ("ok", True)
    MlflowStore.open(None, "recipes", tmp_path)
    whole = found(f"{place}/mlflow.db", tmp_path)
    assert (whole.status, "tables of revision" in whole.text) == ("ok", True)
    refusing = found(f"{place}/nowhere/runs.db", tmp_path)
    assert (refusing.status, "takes no connection" in refusing.text) == ("warn", True)
    assert "task=sync" in refusing.fix
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", [OLDER])
    connection.close()
    older = found(f"{place}/mlflow.db", tmp_path)
    assert older.status == "fail"
    assert f"mlflow db upgrade {place}/mlflow.db" in older.fix


def test_the_wait_for_a_database_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlalchemy

    given: list[dict[str, int]] = []

    def create_engine(_: object, connect_args: dict[str, int], **__: object) -> object:
        given.append(connect_args)
        raise sqlalchemy.exc.OperationalError("", {}, TimeoutError("timeout expired\nfor 3 s"))

    monkeypatch.setattr(sqlalchemy, "create_engine", create_engine)
    finding = found("postgresql://me@host/runs", tmp_path)
    assert (finding.status, finding.text) == (
        "warn",
        "postgresql://host/runs: takes no connection (timeout expired for 3 s)",
    )
    assert given == [{"connect_timeout": 3}]


def test_what_cannot_be_tried_is_not_called_sound(tmp_path: Path) -> None:
    finding = found("databricks://profile", tmp_path)
    assert (finding.status, "was not tried" in finding.text) == ("warn", True)


def test_a_folder_as_tracker_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(f"file://{tmp_path}/runs", tmp_path).status == "ok"
    monkeypatch.setattr(tracking, "writing_problem", lambda folder: f"{folder} cannot be written")
    finding = found(f"file://{tmp_path}/runs", tmp_path)
    assert (finding.status, finding.text) == ("fail", f"{tmp_path}/runs cannot be written")
