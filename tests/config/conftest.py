"""Keeps what is configured on the developer's machine out of the tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

HEADER = "# @package _global_\n"

Options = Callable[[str, str], Path]


@pytest.fixture(autouse=True)
def config_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's config folder; its `local/default.yaml` sets nothing and hides the one of the checkout."""
    folder = tmp_path / "user_config"
    (folder / "local").mkdir(parents=True)
    (folder / "local" / "default.yaml").write_text(HEADER + "{}\n")
    monkeypatch.setenv("RECIPE_EXP_CONFIG_DIR", str(folder))
    return folder


@pytest.fixture
def write_option(config_folder: Path) -> Options:
    """Writes `GROUP/OPTION.yaml` into the user's config folder."""

    def write(option: str, text: str) -> Path:
        path = config_folder / f"{option}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write
