"""Where the default MLflow store lies, and keeping it right when its folder is moved. Loads no MLflow."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from recipe_exp.files import file_lock

DATABASE_NAME = "mlflow.db"

_ARTIFACTS_NAME = "mlartifacts"
_LOCATION_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
)


def default_uri(output_dir: Path) -> str:
    """The tracking URI of the database under `output_dir`."""
    return f"sqlite:///{output_dir.resolve() / DATABASE_NAME}"


def artifact_root(output_dir: Path) -> str:
    """The URI under which the default store keeps artifacts."""
    return (output_dir.resolve() / _ARTIFACTS_NAME).as_uri()


def relocate(output_dir: Path) -> int:
    """Make the default store's artifacts found where they lie now, after `output_dir` was moved or copied.

    MLflow records absolute locations. Those of local folders called `mlartifacts` (or `mlruns`, which MLflow
    gives to its default experiment) are rewritten to `output_dir`, in one transaction.

    Returns:
        The number of rewritten records.
    """
    database = output_dir.resolve() / DATABASE_NAME
    if not database.exists():
        return 0
    with database_lock(database):
        return relocate_locked(database)


def database_lock(database: Path) -> contextlib.AbstractContextManager[Any]:
    """The lock under which an sqlite database is created and its records are rewritten."""
    return file_lock(database.with_name(f".{database.name}.lock"))


def relocate_locked(database: Path) -> int:
    """`relocate`, for a caller that holds the database's lock."""
    root = artifact_root(database.parent)
    num_rewritten = 0
    # The isolation level leaves transactions to the statements below.
    with contextlib.closing(sqlite3.connect(database, timeout=30.0, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        for table, column in _LOCATION_COLUMNS:
            if not _has_table(connection, table):
                continue
            query = f"SELECT DISTINCT {column} FROM {table} WHERE substr({column}, 1, ?) != ?"
            for (recorded,) in connection.execute(query, (len(root) + 1, f"{root}/")).fetchall():
                present = _present_location(recorded, root)
                if present is not None:
                    update = f"UPDATE {table} SET {column} = ? WHERE {column} = ?"
                    num_rewritten += connection.execute(update, (present, recorded)).rowcount
        connection.execute("COMMIT")
    return num_rewritten


def _has_table(connection: sqlite3.Connection, table: str) -> bool:
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    return connection.execute(query, (table,)).fetchone() is not None


def _present_location(recorded: str, root: str) -> str | None:
    path = recorded if recorded.startswith("/") else _path_of_file_uri(recorded)
    match = re.fullmatch(rf".*/(?:{_ARTIFACTS_NAME}|mlruns)/(?P<rest>[^/]+(?:/.*)?)", path or "")
    return f"{root}/{quote(match['rest'])}" if match else None


def _path_of_file_uri(uri: str) -> str | None:
    parts = urlsplit(uri)
    return unquote(parts.path) if parts.scheme == "file" and parts.netloc in ("", "localhost") else None


def sqlite_path(uri: str) -> Path | None:
    """The database file of an sqlite URI; None for other URIs."""
    prefix = "sqlite:///"
    return Path(uri.removeprefix(prefix).partition("?")[0]).absolute() if uri.startswith(prefix) else None


def local_folder(uri: str) -> Path | None:
    """The folder that an artifact URI names on a file system; None for object stores and servers."""
    path = uri if uri.startswith("/") else _path_of_file_uri(uri)
    return Path(path) if path else None
