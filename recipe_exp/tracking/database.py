"""An sqlite database of MLflow: made whole, written to, and fitting the installed MLflow; without importing MLflow."""

from __future__ import annotations

import ast
import contextlib
import glob
import os
import re
import shlex
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from recipe_exp.files import flush_to_disk, remove_stale_temporaries

_MIGRATIONS = Path("store", "db_migrations", "versions")
_REVISION = re.compile(r"^(revision|down_revision)\s*(?::[^=\n]+)?=\s*(.+?)\s*(?:#.*)?$", re.MULTILINE)
_BUSY_SECONDS = 2.0


@dataclass(frozen=True)
class Schema:
    """The revision of a database's tables against that of the installed MLflow.

    Attributes:
        found: of the database; None if MLflow has made no tables in it yet.
        expected: what the installed MLflow works with; None if it does not say.
        is_known: whether the installed MLflow has a migration from `found`; False for a database of a later MLflow.
    """

    found: str | None
    expected: str | None
    is_known: bool

    @property
    def is_current(self) -> bool:
        """Whether MLflow will open the database as it is."""
        return self.found is None or self.expected is None or self.found == self.expected


def create_database(database: Path, make_tables: Callable[[Path], None]) -> None:
    """Makes a database that is there with all its tables or not at all; one with some of them MLflow never opens again.

    The caller holds the database's lock.

    Args:
        database: does not exist.
        make_tables: makes the tables in the file that it is given.

    Raises:
        OSError: it cannot be written.
    """
    remove_stale_temporaries(database.parent)
    aside = database.with_name(f".{database.name}.{os.getpid()}.tmp")
    try:
        make_tables(aside)
        flush_to_disk(aside)
        aside.rename(database)
        flush_to_disk(database.parent)
    finally:
        for leftover in aside.parent.glob(f"{glob.escape(aside.name)}*"):
            leftover.unlink(missing_ok=True)


def read_schema(database: Path) -> Schema:
    """Returns the revision of a database that exists; changes nothing.

    Raises:
        sqlite3.Error: the file is no sqlite database or cannot be read.
    """
    return schema_of(_revision_of(database))


def schema_of(revision: str | None) -> Schema:
    """Returns the revision that a database's tables have, None if it has none, against that of the installed MLflow."""
    known, newest = _known_revisions()
    return Schema(revision, newest, revision in known)


def try_writing(database: Path) -> None:
    """Begins a change of a database that exists, and takes it back.

    Raises:
        sqlite3.Error: it cannot be written, or another process keeps it locked.
    """
    with contextlib.closing(sqlite3.connect(database, timeout=_BUSY_SECONDS, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        # The lock alone would be granted on a disk that is full.
        connection.execute("CREATE TABLE recipe_exp_doctor (attempt TEXT)")
        connection.execute("ROLLBACK")


def back_up(database: Path, revision: str | None) -> Path:
    """Copies a database, which may be in use, to a file beside it and returns the copy.

    A copy of this revision that is there and not older than the database is left as it is.

    Raises:
        OSError: the copy cannot be written.
        sqlite3.Error: the database cannot be read, or the disk is full.
    """
    copy = database.with_name(f"{database.name}.{revision or 'unknown'}.backup")
    if copy.exists() and copy.stat().st_mtime >= database.stat().st_mtime:
        return copy
    aside = copy.with_name(f".{copy.name}.{os.getpid()}.tmp")
    try:
        with contextlib.closing(_read_only(database)) as source, contextlib.closing(sqlite3.connect(aside)) as target:
            source.backup(target)
        aside.replace(copy)
    finally:
        aside.unlink(missing_ok=True)
    return copy


def upgrade_command(uri: str) -> str:
    """Returns the shell command that brings a database to the installed MLflow's revision."""
    return f"mlflow db upgrade {shlex.quote(uri)}"


def _known_revisions() -> tuple[set[str], str | None]:
    """Every revision that the installed MLflow can migrate from or to, and the newest one.

    They stand in the files of its migrations; importing them would take as long as importing MLflow.
    """
    spec = find_spec("mlflow")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    revisions: set[str] = set()
    replaced: set[str] = set()
    for file in (file for folder in folders for file in (Path(folder) / _MIGRATIONS).glob("*.py")):
        found = {name: ast.literal_eval(value) for name, value in _REVISION.findall(file.read_text(encoding="utf-8"))}
        if "revision" in found:
            revisions.add(found["revision"])
            before = found.get("down_revision")
            replaced.update(before if isinstance(before, tuple) else [before] if before else [])
    newest = revisions - replaced
    return revisions, next(iter(newest)) if len(newest) == 1 else None


def _revision_of(database: Path) -> str | None:
    with contextlib.closing(_read_only(database)) as connection:
        query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name = 'alembic_version'"
        if connection.execute(query).fetchone() is None:
            return None
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return str(row[0]) if row else None


def _read_only(database: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_SECONDS)
