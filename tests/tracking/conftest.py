"""Fixtures of the tracking tests: run folders, and a database that is created once and copied."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from recipe_exp.tracking import RunFolder
from recipe_exp.tracking.mlflow_store import MlflowStore


@pytest.fixture(autouse=True)
def _restored_environment() -> Iterator[None]:
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def output_dir(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


@pytest.fixture
def folder(output_dir: Path) -> RunFolder:
    return RunFolder.create(output_dir, run_name="small", command=["python", "-m", "recipe_exp"])


@pytest.fixture(scope="session")
def _empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store")
    MlflowStore.open(None, "recipes", path)
    return path


@pytest.fixture
def stored(output_dir: Path, _empty_store: Path) -> Path:
    """An output folder with a database, which saves the seconds that creating one takes."""
    output_dir.mkdir()
    shutil.copy(_empty_store / "mlflow.db", output_dir)
    return output_dir
