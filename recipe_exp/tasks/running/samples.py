"""`samples.jsonl` and `scores.jsonl` of a run: what the model wrote, and how good each of it was, step by step."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from recipe_exp.evaluation.evaluator import EvaluationResult, Evaluator
from recipe_exp.models.sequence_loss import SequenceLoss
from recipe_exp.tasks.running.step_lines import StepLines
from recipe_exp.tracking import RunFolder


class SamplesFile:
    """Appends generated samples, and the scores of the examples of an evaluation.

    Args:
        folder: of the run; None on every process but the main one.
        console: told of a disk that refuses, which does not end the run.
    """

    def __init__(self, folder: RunFolder | None, console: Console) -> None:
        self._samples = StepLines(folder.samples_path if folder else None, console)
        self._scores = StepLines(folder.scores_path if folder else None, console)

    def write(self, step: int, evaluator: Evaluator, loss: SequenceLoss, result: EvaluationResult | None) -> None:
        """Generates on every process and writes on the main one.

        Args:
            step: steps done.
            evaluator: generates.
            loss: the network with its loss.
            result: an evaluation of the same weights, whose recipes are used; None generates some.
        """
        samples = evaluator.samples(loss, result)
        if result is not None:
            self._scores.append(step, result.scores.to_data())
        self._samples.append(step, {"samples": [asdict(sample) for sample in samples]})


def last_sample(path: Path) -> tuple[str, str] | None:
    """Returns a prompt and what the model made of it most recently; None before there is one."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    try:
        sample = json.loads(lines[-1])["samples"][0]
        return str(sample["prompt"]), str(sample["generated"])
    except (IndexError, ValueError, KeyError, TypeError):
        return None
