"""Real tracking servers that are made to fail, and what their databases hold in the end."""

from __future__ import annotations

import contextlib
import http.client
import os
import pwd
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

from recipe_exp.tracking import RunFolder, metric_points, read_events
from recipe_exp.tracking.events import DatasetUse, Params, SeenSteps

Mode = Literal["pass", "hang", "500", "lost"]


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Any, seconds: float, what: str) -> None:
    """Wait until `condition()` is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.1)


class SqliteDatabase:
    """A backend store of MLflow in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.uri = f"sqlite:///{path}"

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.path, timeout=30)) as connection:
            return connection.execute(query, values).fetchall()

    def has_tables(self) -> bool:
        """Whether MLflow has made its tables, all columns of them."""
        query = "SELECT 1 FROM pragma_table_info('metrics') WHERE name = 'is_nan'"
        return self.path.exists() and bool(self.rows(query))


class PostgresDatabase:
    """A backend store of MLflow in a database of `Postgres`."""

    def __init__(self, port: int, name: str) -> None:
        self.port = port
        self.name = name
        self.uri = f"postgresql://tester@127.0.0.1:{port}/{name}"

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        import psycopg

        with psycopg.connect(f"host=127.0.0.1 port={self.port} user=tester dbname={self.name}") as connection:
            return connection.execute(query.replace("?", "%s"), values).fetchall()

    def change(self, *commands: str) -> None:
        """Have something done to it."""
        import psycopg

        with psycopg.connect(f"host=127.0.0.1 port={self.port} user=tester dbname={self.name}") as connection:
            for command in commands:
                connection.execute(command)
                connection.commit()

    def has_tables(self) -> bool:
        """Whether MLflow has made its tables, all columns of them."""
        query = "SELECT 1 FROM information_schema.columns WHERE table_name = 'metrics' AND column_name = 'is_nan'"
        return bool(self.rows(query))


def postgres_program(name: str) -> str | None:
    """Where a program of the newest Postgres server lies; Debian puts them beside the path, by version."""
    by_version = Path("/usr/lib/postgresql").glob(f"*/bin/{name}")
    newest = max(by_version, key=lambda path: float(path.parts[-3]), default=None)
    return shutil.which(name) or (str(newest) if newest is not None else None)


class Postgres:
    """A Postgres server of its own, on a free port and in a folder."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.folder = folder
        # Postgres refuses to run as root.
        self.user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        folder.mkdir(parents=True)
        if os.geteuid() == 0:
            for parent in (folder, *folder.parents):
                with contextlib.suppress(OSError):
                    parent.chmod(parent.stat().st_mode | 0o011)
            shutil.chown(folder, self.user)
        self._run("initdb", "-D", str(folder / "data"), "-U", "tester", "-A", "trust", "-E", "UTF8")
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
        self._run("pg_ctl", "-D", str(folder / "data"), "-w", "-l", str(folder / "log"), "-o", options, "start")

    @staticmethod
    def is_installed() -> bool:
        """Whether there is a server and a driver that Python can use."""
        try:
            import psycopg  # noqa: F401
        except ImportError:
            return False
        return postgres_program("pg_ctl") is not None and postgres_program("initdb") is not None

    def create(self, name: str) -> PostgresDatabase:
        """An empty database."""
        database = PostgresDatabase(self.port, name)
        import psycopg

        place = f"host=127.0.0.1 port={self.port} user=tester dbname=postgres"
        with psycopg.connect(place, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return database

    def stop(self) -> None:
        """End the server."""
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "stop")

    def _run(self, *command: str) -> None:
        words = [postgres_program(command[0]) or command[0], *command[1:]]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, user=self.user, cwd=self.folder)


class MlflowServer:
    """`mlflow server` on a port that stays the same when it is started again."""

    def __init__(self, database: SqliteDatabase | PostgresDatabase, folder: Path) -> None:
        self.database = database
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Start, and wait until it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", self.database.uri]
        command += ["--artifacts-destination", str(self.folder / "artifacts"), "--port", str(self.port)]
        command += ["--workers", "1", "--serve-artifacts"]
        light = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        environment = {**os.environ, **light}
        # With it MLflow checks its own transactions.
        environment.pop("PYTEST_CURRENT_TEST", None)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        wait_for(self._is_healthy, 90, "the server")

    def kill(self) -> None:
        """End without a warning."""
        self._signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()
        self.process = None

    def freeze(self) -> None:
        """Connections are accepted from now on, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Answer again."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def _is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=1):
                return True
        except OSError:
            return False


class Proxy:
    """Stands before a server and does to requests what `mode` says.

    `hang`: they are taken and never answered. `500`: that is the answer. `lost`: the server gets them, and of one in
    three, drawn by chance, the connection breaks before the answer arrives.
    """

    def __init__(self, upstream: MlflowServer) -> None:
        self.mode: Mode = "pass"
        self.num_disturbed = 0
        chance = random.Random(0)
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                with contextlib.suppress(OSError):
                    super().handle_one_request()

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                mode = proxy.mode
                if mode == "lost" and chance.random() > 1 / 3:
                    mode = "pass"
                proxy.num_disturbed += mode != "pass"
                if mode == "hang":
                    time.sleep(60)
                    return
                if mode == "500":
                    self.send_error(500)
                    return
                connection = http.client.HTTPConnection("127.0.0.1", upstream.port, timeout=60)
                headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                content = answer.read()
                if mode == "lost":
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.getheader("Content-Type") or "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Refuse connections."""
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the write lock of an sqlite database, as a backup or a careless script does."""
    connection = sqlite3.connect(path, timeout=30, isolation_level=None)
    try:
        connection.execute("BEGIN EXCLUSIVE")
        yield
    finally:
        connection.close()


def stored_steps(database: SqliteDatabase | PostgresDatabase, folder: RunFolder) -> Counter[tuple[str, int]]:
    """How many rows there are for each (metric, step) of the run, whatever their values."""
    query = (
        "SELECT key, step, COUNT(*) FROM metrics JOIN tags ON tags.run_uuid = metrics.run_uuid "
        "WHERE tags.key = 'recipe_exp.run_id' AND tags.value = ? GROUP BY metrics.key, metrics.step"
    ).replace("SELECT key, step", "SELECT metrics.key, metrics.step")
    if not database.has_tables():
        return Counter()
    return Counter({(key, step): count for key, step, count in database.rows(query, folder.run_id)})


def check_complete(
    database: SqliteDatabase | PostgresDatabase,
    folder: RunFolder,
    *,
    artifacts: Path,
    files: Sequence[str] = (),
    status: str = "FINISHED",
) -> None:
    """The database and the artifact store hold all that the folder has, and nothing twice."""
    runs = database.rows(
        "SELECT runs.run_uuid, runs.status, runs.end_time FROM runs JOIN tags ON tags.run_uuid = runs.run_uuid "
        "WHERE tags.key = 'recipe_exp.run_id' AND tags.value = ?",
        folder.run_id,
    )
    assert len(runs) == 1, runs
    ((mlflow_run_id, stored_status, end_time),) = runs
    assert stored_status == status
    assert end_time is not None

    events = list(read_events(folder.journal_path))
    expected = {(p.name, p.step): p.value for p in metric_points(events)}
    seen = SeenSteps()
    expected |= {(p.name, p.step): p.value for p in metric_points(read_events(folder.system_path), seen)}
    counts = stored_steps(database, folder)
    assert {place: count for place, count in counts.items() if count != 1} == {}
    rows = database.rows("SELECT key, step, value, is_nan FROM metrics WHERE run_uuid = ?", mlflow_run_id)
    assert {(key, step): value for key, step, value, is_nan in rows if not is_nan} == expected
    assert len(expected) > 0

    params = {name: value for event in events if isinstance(event, Params) for name, value in event.params.items()}
    assert dict(database.rows("SELECT key, value FROM params WHERE run_uuid = ?", mlflow_run_id)) == params
    datasets = database.rows("SELECT 1 FROM inputs WHERE destination_id = ?", mlflow_run_id)
    assert len(datasets) == len({(event.name, event.digest) for event in events if isinstance(event, DatasetUse)}) > 0
    (found,) = artifacts.rglob(f"{mlflow_run_id}/artifacts")
    missing = [name for name in files if not (found / name).is_file()]
    assert missing == []
