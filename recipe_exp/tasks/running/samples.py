"""`samples.jsonl` of a run: what the model wrote, step by step."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from recipe_exp.evaluation.evaluator import EvaluationResult, Evaluator
from recipe_exp.files import append_whole, write_atomically
from recipe_exp.models.sequence_loss import SequenceLoss


class SamplesFile:
    """Appends generated samples, at most one entry a step.

    An evaluation may be interrupted after its samples were written, and is made again when the run continues.

    Args:
        path: the file; None on every process but the main one.
        console: told of a disk that refuses, which does not end the run.
    """

    def __init__(self, path: Path | None, console: Console) -> None:
        self.path = path
        self.console = console
        self._unwritten = b""

    def write(self, step: int, evaluator: Evaluator, loss: SequenceLoss, result: EvaluationResult | None) -> None:
        """Generates on every process and writes on the main one.

        Args:
            step: steps done.
            evaluator: generates.
            loss: the network with its loss.
            result: an evaluation of the same weights, whose recipes are used; None generates some.
        """
        samples = evaluator.samples(loss, result)
        if self.path is None:
            return
        entry = {"step": step, "samples": [asdict(sample) for sample in samples]}
        try:
            if _last_step(self.path) != step:
                self._unwritten += f"{json.dumps(entry, ensure_ascii=False)}\n".encode()
                append_whole(self.path, self._unwritten)
                self._unwritten = b""
        except OSError as error:
            self.console.print(
                f"warning: {self.path}: {error.strerror}; training goes on, and the next samples bring these along",
                style="yellow",
                highlight=False,
            )


def rewind_samples(path: Path, step: int) -> None:
    """Keeps the entries up to a step; what was written after it will be written again."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines()
        write_atomically(path, "".join(f"{line}\n" for line in lines if _step_of(line) <= step).encode())


def last_sample(path: Path) -> tuple[str, str] | None:
    """Returns a prompt and what the model made of it most recently; None before there is one."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    try:
        sample = json.loads(lines[-1])["samples"][0]
        return str(sample["prompt"]), str(sample["generated"])
    except (IndexError, ValueError, KeyError, TypeError):
        return None


def _last_step(path: Path) -> float | None:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return _step_of(lines[-1]) if lines else None


def _step_of(line: str) -> float:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # half a line that a kill left
