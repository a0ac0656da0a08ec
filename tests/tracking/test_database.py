from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from recipe_exp.tracking.database import back_up, read_schema, try_writing, upgrade_command


def test_the_revision_that_mlflow_wants_is_found_without_importing_it(stored: Path) -> None:
    from mlflow.store.db.utils import _get_latest_schema_revision

    schema = read_schema(stored / "mlflow.db")
    assert schema.expected == _get_latest_schema_revision()
    assert (schema.found, schema.is_known, schema.is_current) == (schema.expected, True, True)
    code = (
        "import sys; from pathlib import Path; from recipe_exp.tracking.database import read_schema;"
        "read_schema(Path(sys.argv[1])); print('mlflow' in sys.modules)"
    )
    asked = subprocess.run(
        [sys.executable, "-c", code, stored / "mlflow.db"], capture_output=True, text=True, check=True
    )
    assert asked.stdout == "False\n"


def test_a_file_without_tables_is_current(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "mlflow.db").execute("VACUUM")
    assert read_schema(tmp_path / "mlflow.db").is_current


def test_trying_to_write_changes_nothing(stored: Path) -> None:
    before = (stored / "mlflow.db").read_bytes()
    try_writing(stored / "mlflow.db")
    assert (stored / "mlflow.db").read_bytes() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_database_that_is_read_only_cannot_be_written(stored: Path) -> None:
    (stored / "mlflow.db").chmod(0o444)
    with pytest.raises(sqlite3.Error):
        try_writing(stored / "mlflow.db")


def test_a_copy_is_whole_while_another_process_writes(stored: Path) -> None:
    database = stored / "mlflow.db"
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("DELETE FROM experiments")
    copy = back_up(database, "abc")
    connection.execute("ROLLBACK")
    connection.close()
    assert copy == stored / "mlflow.db.abc.backup"
    copied = sqlite3.connect(copy)
    assert copied.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert copied.execute("SELECT count(*) FROM experiments").fetchone()[0] > 0
    copied.close()


def test_a_copy_that_is_there_is_kept_until_the_database_changes(stored: Path) -> None:
    database = stored / "mlflow.db"
    copy = back_up(database, "abc")
    copy.write_text("kept")
    assert back_up(database, "abc").read_text() == "kept"
    later = copy.stat().st_mtime + 10
    os.utime(database, (later, later))
    assert back_up(database, "abc").read_bytes()[:6] == b"SQLite"
    assert sorted(path.name for path in stored.glob("*backup*")) == ["mlflow.db.abc.backup"]


def test_the_command_survives_a_shell() -> None:
    assert upgrade_command("sqlite:////my runs/mlflow.db") == "mlflow db upgrade 'sqlite:////my runs/mlflow.db'"
