"""Files of a run with one JSON line for each step that has something to say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from recipe_exp.files import append_whole, write_atomically


class StepLines:
    """Appends entries to a file, at most one a step.

    An evaluation may be interrupted after its line was written, and is made again when the run continues.

    Args:
        path: the file; None on every process but the main one, where nothing is written.
        console: told of a disk that refuses, which does not end the run.
    """

    def __init__(self, path: Path | None, console: Console) -> None:
        self.path = path
        self.console = console
        self._unwritten = b""

    def append(self, step: int, entry: Mapping[str, Any]) -> None:
        """Writes one line, unless the last one is of the same step.

        Args:
            step: steps done.
            entry: what there is to say, as JSON values.
        """
        if self.path is None:
            return
        try:
            if _last_step(self.path) != step:
                line = json.dumps({"step": step, **entry}, ensure_ascii=False, separators=(",", ":"))
                self._unwritten += f"{line}\n".encode()
                append_whole(self.path, self._unwritten)
                self._unwritten = b""
        except OSError as error:
            self.console.print(
                f"warning: {self.path}: {error.strerror}; training goes on, and the next line brings this one along",
                style="yellow",
                highlight=False,
            )


def rewind_lines(path: Path, step: int) -> None:
    """Keeps the entries up to a step; what was written after it will be written again."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines()
        write_atomically(path, "".join(f"{line}\n" for line in lines if _step_of(line) <= step).encode())


def _last_step(path: Path) -> float | None:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return _step_of(lines[-1]) if lines else None


def _step_of(line: str) -> float:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # half a line that a kill left
