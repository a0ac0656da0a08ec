"""What a person sees while a run goes on: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from recipe_exp.training.callbacks.callback import Callback
from recipe_exp.training.state import StepResult

if TYPE_CHECKING:
    from recipe_exp.training.trainer import Trainer

SECONDS_BETWEEN_LINES = 15.0
_SHARES = {
    "train/padding_share": "padding",
    "train/data_wait_share": "waiting for data",
    "train/evaluation_share": "evaluating",
    "train/logging_share": "logging",
    "train/checkpoint_share": "saving",
}
# A smaller share is nothing that a person has to look into.
_MIN_SHARE = 0.05


class ConsoleCallback(Callback):
    """Shows progress, the loss and the speed; every evaluation as one line."""

    priority = 40

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._last_line = float("-inf")

    def on_train_begin(self, trainer: Trainer) -> None:
        """Opens the bar."""
        if not self.console.is_terminal:
            return
        columns = ("step", BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("{task.description}"))
        self._progress = Progress(*columns, TimeRemainingColumn(), console=self.console, transient=True)
        self._task = self._progress.add_task("", total=trainer.length.total_steps, completed=trainer.state.step)
        self._progress.start()

    def on_step_end(self, trainer: Trainer, result: StepResult) -> None:
        """Moves the bar."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=result.step)

    def on_log(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        """Shows training metrics beside the bar, or as a line when the last one is old enough."""
        if "train/loss" not in metrics:
            return
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=_describe_training(metrics))
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self._line(trainer, _describe_training(metrics))

    def on_validation_begin(self, trainer: Trainer) -> None:
        """Says what takes the time."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description="evaluating")

    def on_validation_end(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        """Shows the metrics that matter most."""
        names = ("eval/loss", "eval/bleu", "eval/rougeL", "eval/well_formed", "eval/ingredient_coherence")
        shown = [f"{name.removeprefix('eval/')} {metrics[name]:.3f}" for name in names if name in metrics]
        self._line(trainer, "eval  " + "  ".join(shown))

    def on_train_end(self, trainer: Trainer) -> None:
        """Closes the bar."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _line(self, trainer: Trainer, text: str) -> None:
        width = len(str(trainer.length.total_steps))
        self.console.print(f"step {trainer.state.step:>{width}}/{trainer.length.total_steps}  {text}", highlight=False)


def _describe_training(metrics: Mapping[str, float]) -> str:
    parts = [
        f"loss {metrics['train/loss']:.3f}",
        f"rate {metrics['train/learning_rate']:.1e}",
        f"{metrics['train/recipes_per_second']:.1f} recipes/s",
        f"{metrics['train/target_tokens_per_second']:,.0f} tokens/s",
    ]
    if "train/utilisation" in metrics:
        parts.append(f"{metrics['train/utilisation']:.0%} of peak")
    for name, what in _SHARES.items():
        if metrics.get(name, 0.0) >= _MIN_SHARE:
            parts.append(f"{metrics[name]:.0%} {what}")
    return "  ".join(parts)
