from __future__ import annotations

import os
import shlex
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from recipe_exp.errors import TrackingError
from recipe_exp.tracking import default_uri, serve_ui, ui_command
from recipe_exp.tracking.locations import artifact_root


def test_the_printed_command_serves_the_default_store(tmp_path: Path) -> None:
    words = shlex.split(ui_command(tmp_path / "out put", port=5001))
    assert words[words.index("--backend-store-uri") + 1] == default_uri(tmp_path / "out put")
    assert words[words.index("--port") + 1] == "5001"
    assert "MLFLOW_DISABLE_TELEMETRY=true" in words[: words.index("mlflow")]
    assert "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false" in words[: words.index("mlflow")]


def test_serving_moves_a_moved_store_along_and_stays_inside(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    moved = tmp_path / "moved"
    shutil.move(stored, moved)
    executed: dict[str, Any] = {}

    def execute(program: str, command: list[str], environment: dict[str, str]) -> None:
        executed.update(program=program, command=command, environment=environment, folder=Path.cwd())

    monkeypatch.setattr(os, "execvpe", execute)
    monkeypatch.chdir(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve_ui(Path("moved"), port=port)
    assert executed["program"] == sys.executable
    assert executed["command"][1:4] == ["-m", "mlflow", "server"]
    assert default_uri(moved) in executed["command"]
    assert executed["environment"]["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert executed["folder"] == moved
    for experiment in MlflowClient(default_uri(moved)).search_experiments():
        assert experiment.artifact_location.startswith(artifact_root(moved))


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(TrackingError, match=r"cannot be listened on .*choose another port"):
            serve_ui(tmp_path, port=taken.getsockname()[1])
