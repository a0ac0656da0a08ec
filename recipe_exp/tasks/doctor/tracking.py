"""The tracking server or database: whether it answers, permits and fits the installed MLflow."""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote

from recipe_exp.config.tracking import TrackingConfig
from recipe_exp.secrets import redact_known, strip_credentials
from recipe_exp.tasks.doctor.disk import network_file_system, writing_problem
from recipe_exp.tasks.doctor.findings import Finding
from recipe_exp.tracking import database as databases
from recipe_exp.tracking.locations import default_uri, local_folder, sqlite_path

_SECONDS = 3.0
_NOT_WRITTEN = "writing was not tried"
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
    found = f"{shown} has tables of revision {schema.found}, the installed MLflow wants {schema.expected}"
    if not schema.is_known:
        return Finding(
            "tracking", "fail", f"{found}, which is older", "pip install --upgrade mlflow, or set tracking.uri"
        )
    try:
        copy = databases.back_up(database, schema.found)
    except (OSError, sqlite3.Error) as error:
        return Finding(
            "tracking", "fail", f"{found}; no copy of it can be made ({error})", "free some space, then again"
        )
    return Finding("tracking", "fail", f"{found}; copied to {copy.name}", databases.upgrade_command(database))


def _check_other(uri: str) -> Finding:
    """Returns whether a database that SQLAlchemy reaches takes a connection."""
    shown = strip_credentials(uri)
    # It comes with MLflow, takes a tenth of a second to import, and most trackers need none.
    import sqlalchemy

    try:
        address = sqlalchemy.make_url(uri)
        # The name of this setting in every driver of these; the others have their own limits, or the doctor's.
        is_timed = address.get_backend_name() in ("postgresql", "mysql", "mariadb")
        limits = {"connect_timeout": round(_SECONDS)} if is_timed else {}
        engine = sqlalchemy.create_engine(address, connect_args=limits, poolclass=sqlalchemy.NullPool)
        engine.connect().close()
    except ModuleNotFoundError as error:
        fix = f"install the package that it is in, or set another tracking.uri; {_LATER}"
        return Finding("tracking", "fail", f"{shown}: its driver {error.name} is not installed", fix)
    except sqlalchemy.exc.ArgumentError:
        return Finding("tracking", "warn", f"{shown}: was not tried", f"see whether a short run arrives; {_LATER}")
    except sqlalchemy.exc.DBAPIError as error:
        reason = redact_known(" ".join(str(error.orig).split()))[:120]
        return Finding("tracking", "warn", f"{shown}: takes no connection ({reason})", _LATER)
    return Finding("tracking", "ok", f"{shown} takes a connection; {_NOT_WRITTEN}")


def _check_server(uri: str, experiment: str) -> Finding:
    shown = strip_credentials(uri)
    base = uri.rstrip("/")
    status, _ = _ask(f"{base}/health")
    if status == 200:
        place = f"{base}/api/2.0/mlflow/experiments/get-by-name?experiment_name={quote(experiment, safe='')}"
        status, answer = _ask(place)
        if answer.get("experiment", {}).get("lifecycle_stage") == "deleted":
            fix = f"restore it there, or set another tracking.experiment; {_LATER}"
            return Finding("tracking", "fail", f"{shown}: the experiment {experiment} was deleted in MLflow", fix)
        # An experiment that is not there yet is made by the first run.
        status = 200 if status == 404 else status
    if status == 200:
        # A question, but posted as records are: a proxy may let through nothing but GET.
        status, _ = _ask(f"{base}/api/2.0/mlflow/experiments/search", {"max_results": 1})
    if status in (401, 403):
        return Finding("tracking", "fail", f"{shown}: does not permit it (status {status})", _CREDENTIALS)
    if status is None:
        return Finding("tracking", "warn", f"{shown}: does not answer within {_SECONDS:.0f} s", _LATER)
    if status != 200:
        return Finding("tracking", "warn", f"{shown}: answers with status {status}", _LATER)
    return Finding("tracking", "ok", f"{shown} answers and permits to read; {_NOT_WRITTEN}")


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
