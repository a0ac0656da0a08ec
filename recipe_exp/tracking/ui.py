"""MLflow's interface on the default store."""

from __future__ import annotations

import os
import shlex
import socket
import sys
from pathlib import Path
from typing import NoReturn

from recipe_exp.errors import TrackingError
from recipe_exp.tracking.locations import DATABASE_NAME, artifact_root, default_uri, relocate
from recipe_exp.tracking.mlflow_store import ENVIRONMENT, MlflowStore

_UI_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": ENVIRONMENT["MLFLOW_DISABLE_TELEMETRY"],
    # Jobs serve features of hosted models and cost six processes.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


def ui_command(output_dir: Path, host: str = "127.0.0.1", port: int = 5000) -> str:
    """A shell command that shows the runs under `output_dir` in a browser."""
    variables = [f"{name}={value}" for name, value in _UI_ENVIRONMENT.items()]
    return shlex.join([*variables, "mlflow", *_arguments(output_dir, host, port)])


def serve_ui(output_dir: Path, host: str = "127.0.0.1", port: int = 5000) -> NoReturn:
    """Replace this process by MLflow's server on the default store.

    Raises:
        TrackingError: the port is taken.
    """
    _check_port(host, port)
    output_dir = output_dir.resolve()
    if (output_dir / DATABASE_NAME).exists():
        relocate(output_dir)
    else:
        MlflowStore.open(None, "recipes", output_dir)
    os.chdir(output_dir)  # whatever the server may write by a relative path stays inside
    arguments = _arguments(output_dir, host, port)
    command = [sys.executable, "-m", "mlflow", *arguments]
    os.execvpe(sys.executable, command, {**os.environ, **_UI_ENVIRONMENT})


def _arguments(output_dir: Path, host: str, port: int) -> list[str]:
    store = ["--backend-store-uri", default_uri(output_dir)]
    artifacts = ["--default-artifact-root", artifact_root(output_dir)]
    return ["server", *store, *artifacts, "--host", host, "--port", str(port), "--workers", "1"]


def _check_port(host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise TrackingError(
            f"{host}:{port}: cannot be listened on ({error.strerror or error}); choose another port"
        ) from error
