"""What a run wrote for its held-out examples, kept for its report: at its best step, and at its last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from recipe_exp.files import reason_of, write_atomically
from recipe_exp.metrics.predictions import Prediction, encode_predictions


class PredictionFiles:
    """Keeps the predictions of two evaluations.

    Args:
        folder: made when there is something to write; None on every process but the main one.
        best_step: returns the best evaluated step; None before there is one.
        console: told of a disk that refuses, which does not end the run.
    """

    def __init__(self, folder: Path | None, best_step: Callable[[], int | None], console: Console) -> None:
        self.folder = folder
        self.best_step = best_step
        self.console = console

    def write(self, step: int, predictions: Sequence[Prediction]) -> None:
        """Writes those of a step, and removes what is neither of the best step nor of this one."""
        if self.folder is None:
            return
        kept = {_file_name(step), _file_name(self.best_step() or step)}
        try:
            self.folder.mkdir(exist_ok=True)
            write_atomically(self.folder / _file_name(step), encode_predictions(predictions))
            _keep(self.folder, kept)
        except OSError as error:
            self.console.print(
                f"warning: {self.folder}: {reason_of(error)}; the report will lack what was written at step {step}",
                style="yellow",
                highlight=False,
            )


def rewind_predictions(folder: Path, step: int) -> None:
    """Removes what was written after a step; it will be written again."""
    for path in folder.glob("step-*.jsonl"):
        if path.name > _file_name(step):
            path.unlink(missing_ok=True)


def keep_best_and_last(folder: Path, best_step: int) -> None:
    """Removes what was the best before the last evaluation, once it is known which is now."""
    names = sorted(path.name for path in folder.glob("step-*.jsonl"))
    _keep(folder, {*names[-1:], _file_name(best_step)})


def _keep(folder: Path, names: set[str]) -> None:
    for path in folder.glob("step-*.jsonl"):
        if path.name not in names:
            path.unlink(missing_ok=True)


def _file_name(step: int) -> str:
    return f"step-{step:08}.jsonl"
