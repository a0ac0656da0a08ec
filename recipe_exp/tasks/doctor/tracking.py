"""The tracking server or database: whether it answers, permits and fits the installed MLflow."""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import quote

from recipe_exp.config.tracking import TrackingConfig
from recipe_exp.secrets import redact_known, strip_credentials
from recipe_exp.tasks.doctor.disk import network_file_system, writing_problem
from recipe_exp.tasks.doctor.findings import Finding
from recipe_exp.tracking import database as databases
from recipe_exp.tracking.locations import default_uri, local_folder, sqlite_path

if TYPE_CHECKING:
    import sqlalchemy

_SECONDS = 3.0
_DOCTOR_TAG = "recipe_exp.doctor"
_NO_EXPERIMENT = "9223372036854775807"
_LATER = "training goes on without it; send what is missing with task=sync"
_CREDENTIALS = (
    "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in the environment or .env"
)


def check_tracking(tracking: TrackingConfig, output_dir: Path) -> Iterator[Finding]:
    """Yields what speaks for or against sending a run's record where the configuration says."""
    if not tracking.enabled:
        yield Finding("tracking", "ok", "off; the journal stays in the run folder")
        return
    if tracking.uri is None and os.environ.get("MLFLOW_TRACKING_URI"):
        fix = "set tracking.uri in conf/local/default.yaml, or unset the variable"
        yield Finding("tracking", "warn", "MLFLOW_TRACKING_URI is set but not read; runs go into output_dir", fix)
    uri = tracking.uri or default_uri(output_dir.expanduser())
    database = sqlite_path(uri)
    if uri.startswith(("http://", "https://")):
        yield _check_server(uri, tracking.experiment)
    elif database is not None:
        yield from check_database(database)
    elif (folder := local_folder(uri)) is not None:
        problem = writing_problem(folder)
        yield Finding("tracking", "ok" if problem is None else "fail", problem or f"{folder} can be written")
    else:
        yield _check_other(uri)


def check_database(database: Path) -> Iterator[Finding]:
    """Yields whether an sqlite database can be written, on what disk it lies, and whether its tables are current.

    Tables of an earlier MLflow are copied to a file beside it, so that the upgrade that is advised can be undone.
    """
    shown = f"{database.name} in {database.parent.name}/"
    if not database.exists():
        problem = writing_problem(database.parent)
        if problem is not None:
            yield Finding("tracking", "fail", problem, f"set tracking.uri or output_dir; {_LATER}")
            return
        yield Finding("tracking", "ok", f"{shown} will be made with the first run")
    else:
        yield _check_file(database, shown)
    kind = network_file_system(database.parent)
    if kind is not None:
        fix = "set tracking.uri to a server, or to sqlite:///... on a disk of this machine"
        yield Finding("tracking", "warn", f"{shown} lies on a network disk ({kind}), where locks are unreliable", fix)


def _check_file(database: Path, shown: str) -> Finding:
    try:
        schema = databases.read_schema(database)
        if not schema.is_current:
            return _outdated(database, shown, schema)
        databases.try_writing(database)
    except sqlite3.Error as error:
        if "locked" in str(error):
            return Finding("tracking", "warn", f"{shown} is locked by another process", f"end it, or wait; {_LATER}")
        fix = f"repair its permissions or move it away, or set tracking.uri; {_LATER}"
        return Finding("tracking", "fail", f"{shown} cannot be written ({error})", fix)
    revision = f", tables of revision {schema.found[:6]} as MLflow wants them" if schema.found else ""
    return Finding("tracking", "ok", f"{shown} can be written{revision}")


def _outdated(database: Path, shown: str, schema: databases.Schema) -> Finding:
    found = _difference(shown, schema)
    if not schema.is_known:
        return _of_later_mlflow(found)
    try:
        copy = databases.back_up(database, schema.found)
    except (OSError, sqlite3.Error) as error:
        return Finding(
            "tracking", "fail", f"{found}; no copy of it can be made ({error})", "free some space, then again"
        )
    return Finding(
        "tracking", "fail", f"{found}; copied to {copy.name}", databases.upgrade_command(f"sqlite:///{database}")
    )


def _difference(shown: str, schema: databases.Schema) -> str:
    return f"{shown} has tables of revision {schema.found}, the installed MLflow wants {schema.expected}"


def _of_later_mlflow(found: str) -> Finding:
    return Finding("tracking", "fail", f"{found}, which is older", "pip install --upgrade mlflow, or set tracking.uri")


def _check_other(uri: str) -> Finding:
    """Returns whether a database that SQLAlchemy reaches takes a connection and a change, and has current tables."""
    shown = strip_credentials(uri)
    # It comes with MLflow, takes a tenth of a second to import, and most trackers need none.
    import sqlalchemy

    try:
        address = sqlalchemy.make_url(uri)
        # The name of this setting in every driver of these; the others have their own limits, or the doctor's.
        is_timed = address.get_backend_name() in ("postgresql", "mysql", "mariadb")
        limits = {"connect_timeout": round(_SECONDS)} if is_timed else {}
        engine = sqlalchemy.create_engine(address, connect_args=limits, poolclass=sqlalchemy.NullPool)
        connection = engine.connect()
    except ModuleNotFoundError as error:
        fix = f"install the package that it is in, or set another tracking.uri; {_LATER}"
        return Finding("tracking", "fail", f"{shown}: its driver {error.name} is not installed", fix)
    except sqlalchemy.exc.ArgumentError:
        return Finding("tracking", "warn", f"{shown}: was not tried", f"see whether a short run arrives; {_LATER}")
    except sqlalchemy.exc.DBAPIError as error:
        return Finding("tracking", "warn", f"{shown}: takes no connection ({_reason(error)})", _LATER)
    with connection:
        return _check_connection(connection, shown)


def _check_connection(connection: sqlalchemy.Connection, shown: str) -> Finding:
    import sqlalchemy

    try:
        revision = _try_change(connection)
    except sqlalchemy.exc.DBAPIError as error:
        fix = f"give the user of tracking.uri the right to write, or set another; {_LATER}"
        return Finding("tracking", "fail", f"{shown}: takes no change ({_reason(error)})", fix)
    schema = databases.schema_of(revision)
    if not schema.is_known and revision is not None:
        return _of_later_mlflow(_difference(shown, schema))
    if not schema.is_current:
        fix = f"copy the database (pg_dump, mysqldump), then {databases.upgrade_command(shown)} with user and password"
        return Finding("tracking", "fail", _difference(shown, schema), fix)
    found = f"tables of revision {revision[:6]} as MLflow wants them" if revision else "its tables will be made"
    return Finding("tracking", "ok", f"{shown} can be written, {found}")


def _try_change(connection: sqlalchemy.Connection) -> str | None:
    """Begins a change of MLflow's tables, or of a database without them, and takes it back; returns their revision."""
    import sqlalchemy

    inspector = sqlalchemy.inspect(connection)
    if not inspector.has_table("alembic_version"):
        # Some databases would keep the table.
        if connection.dialect.name == "postgresql":
            connection.execute(sqlalchemy.text("CREATE TABLE recipe_exp_doctor (attempt TEXT)"))
            connection.rollback()
        return None
    revision = connection.execute(sqlalchemy.text("SELECT version_num FROM alembic_version")).scalar()
    if inspector.has_table("experiments"):
        # Rights and read-only copies are looked at although it changes no row.
        connection.execute(sqlalchemy.text("UPDATE experiments SET name = name WHERE 1 = 0"))
        connection.rollback()
    return None if revision is None else str(revision)


def _reason(error: sqlalchemy.exc.DBAPIError) -> str:
    return redact_known(" ".join(str(error.orig).split()))[:120]


def _check_server(uri: str, experiment: str) -> Finding:
    """Returns whether a server answers, permits, and takes a change: the time of asking, as a tag of the experiment."""
    shown = strip_credentials(uri)
    base = uri.rstrip("/")
    status, _ = _ask(f"{base}/health")
    experiment_id = None
    if status == 200:
        place = f"{base}/api/2.0/mlflow/experiments/get-by-name?experiment_name={quote(experiment, safe='')}"
        status, answer = _ask(place)
        found = answer.get("experiment", {})
        if found.get("lifecycle_stage") == "deleted":
            fix = f"restore it there, or set another tracking.experiment; {_LATER}"
            return Finding("tracking", "fail", f"{shown}: the experiment {experiment} was deleted in MLflow", fix)
        experiment_id = found.get("experiment_id")
        # An experiment that is not there yet is made by the first run.
        status = 200 if status == 404 else status
    if status in (401, 403):
        return Finding("tracking", "fail", f"{shown}: does not permit it (status {status})", _CREDENTIALS)
    if status is None:
        return Finding("tracking", "warn", f"{shown}: does not answer within {_SECONDS:.0f} s", _LATER)
    if status != 200:
        return Finding("tracking", "warn", f"{shown}: answers with status {status}", _LATER)
    return _check_writing(base, shown, experiment_id)


def _check_writing(base: str, shown: str, experiment_id: str | None) -> Finding:
    tag = {"experiment_id": experiment_id or _NO_EXPERIMENT, "key": _DOCTOR_TAG, "value": f"{time.time():.3f}"}
    status, _ = _ask(f"{base}/api/2.0/mlflow/experiments/set-experiment-tag", tag)
    # That there is no such experiment is said by a server that would have written.
    if status == 200 or (status == 404 and experiment_id is None):
        made = "" if experiment_id else "; the experiment is made by the first run"
        return Finding("tracking", "ok", f"{shown} answers and takes changes{made}")
    if status in (401, 403):
        return Finding("tracking", "fail", f"{shown}: permits to read, not to write (status {status})", _CREDENTIALS)
    answer = f"status {status}" if status is not None else f"no answer within {_SECONDS:.0f} s"
    fix = f"see the server's log: its database or disk may be full or read-only; {_LATER}"
    return Finding("tracking", "fail", f"{shown}: can be read and takes no change ({answer})", fix)


def _ask(address: str, posted: dict[str, Any] | None = None) -> tuple[int | None, dict[str, Any]]:
    """Returns the status and the JSON object that a server answers with; no status if it does not answer."""
    content = None if posted is None else json.dumps(posted).encode()
    headers = {**_headers(), **({} if posted is None else {"Content-Type": "application/json"})}
    request = urllib.request.Request(address, content, headers)
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            content = answer.read(1 << 20)
            status = int(answer.status)
    except HTTPError as error:
        return error.code, {}
    except (OSError, ValueError):
        return None, {}
    try:
        parsed = json.loads(content)
    except ValueError:
        return status, {}
    return status, parsed if isinstance(parsed, dict) else {}


def _headers() -> dict[str, str]:
    """What MLflow's own client would send."""
    token, user = os.environ.get("MLFLOW_TRACKING_TOKEN"), os.environ.get("MLFLOW_TRACKING_USERNAME")
    password = os.environ.get("MLFLOW_TRACKING_PASSWORD")
    if user and password:
        return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
    return {"Authorization": f"Bearer {token}"} if token else {}
