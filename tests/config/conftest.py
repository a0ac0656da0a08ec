"""Keeps what is configured on the developer's machine out of the tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

HEADER = "# @package _global_\n"

Options = Callable[[str, str], Path]


@pytest.fixture(scope="session")
def silent_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's config folder whose `local/default.yaml` sets nothing and hides the one of the checkout."""
    folder = tmp_path_factory.mktemp("user_config")
    (folder / "local").mkdir()
    (folder / "local" / "default.yaml").write_text(HEADER + "{}\n")
    return folder


@pytest.fixture(autouse=True)
def _no_config_of_this_machine(silent_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECIPE_EXP_CONFIG_DIR", str(silent_folder))


@pytest.fixture
def config_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty config folder for one test."""
    folder = tmp_path / "user_config"
    folder.mkdir()
    monkeypatch.setenv("RECIPE_EXP_CONFIG_DIR", str(folder))
    return folder


@pytest.fixture
def write_option(config_folder: Path) -> Options:
    """Writes `GROUP/OPTION.yaml` into the config folder of the test."""

    def write(option: str, text: str) -> Path:
        path = config_folder / f"{option}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write
