from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from recipe_exp.tracking.locations import artifact_root, default_uri, local_folder, relocate, sqlite_path


def make_database(output_dir: Path, locations: list[str]) -> None:
    output_dir.mkdir(parents=True)
    with closing(sqlite3.connect(output_dir / "mlflow.db")) as connection, connection:
        connection.execute("CREATE TABLE experiments (artifact_location TEXT)")
        connection.execute("CREATE TABLE runs (artifact_uri TEXT)")
        for location in locations:
            connection.execute("INSERT INTO experiments VALUES (?)", (location,))
            connection.execute("INSERT INTO runs VALUES (?)", (f"{location}/run/artifacts",))


def locations_of(output_dir: Path) -> list[str]:
    with closing(sqlite3.connect(output_dir / "mlflow.db")) as connection:
        return [
            row[0]
            for column, table in (("artifact_location", "experiments"), ("artifact_uri", "runs"))
            for row in connection.execute(f"SELECT {column} FROM {table}")
        ]


@pytest.mark.parametrize(
    "recorded",
    [
        "file:///old/place/mlartifacts/recipes",
        "/old/place/mlartifacts/recipes",
        "file:///somewhere/mlruns/recipes",
        "file:///old/mlartifacts/deeper/mlartifacts/recipes",
        "file:///old/a%20b/mlartifacts/recipes",
    ],
)
def test_locations_follow_the_folder(tmp_path: Path, recorded: str) -> None:
    output_dir = tmp_path / "out put"
    make_database(output_dir, [recorded])
    assert relocate(output_dir) == 2
    root = artifact_root(output_dir)
    assert "%20" in root
    assert locations_of(output_dir) == [f"{root}/recipes", f"{root}/recipes/run/artifacts"]
    assert relocate(output_dir) == 0


@pytest.mark.parametrize(
    "recorded",
    ["s3://bucket/mlartifacts/1", "mlflow-artifacts:/1", "file:///data/results/1", "file://host/mlartifacts/1"],
)
def test_other_stores_are_left_alone(tmp_path: Path, recorded: str) -> None:
    make_database(tmp_path / "outputs", [recorded])
    assert relocate(tmp_path / "outputs") == 0
    assert locations_of(tmp_path / "outputs")[0] == recorded


def test_without_a_database_there_is_nothing_to_do(tmp_path: Path) -> None:
    assert relocate(tmp_path) == 0
    assert list(tmp_path.iterdir()) == []


def test_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_uri(Path("outputs")) == f"sqlite:///{tmp_path}/outputs/mlflow.db"
    assert sqlite_path(default_uri(Path("outputs"))) == tmp_path / "outputs" / "mlflow.db"
    assert sqlite_path("http://localhost:5000") is None
    assert local_folder("file:///a%20b/c") == Path("/a b/c")
    assert local_folder("/a/c") == Path("/a/c")
    assert local_folder("s3://bucket/c") is None
