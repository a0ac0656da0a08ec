"""When a checkpoint is written, which ones stay, and which one is the run's model."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipe_exp.errors import CheckpointError
from recipe_exp.hardware.processes import is_main_process
from recipe_exp.training import checkpoint
from recipe_exp.training.callbacks.callback import Callback
from recipe_exp.training.callbacks.evaluation import BestMetric
from recipe_exp.training.lifecycle import StopReason
from recipe_exp.training.state import StepResult

if TYPE_CHECKING:
    from recipe_exp.training.trainer import Trainer

_EARLY_ENDS = (StopReason.SIGINT, StopReason.SIGTERM, StopReason.TIME_LIMIT, StopReason.EARLY_STOPPING)


@dataclass(frozen=True)
class Best:
    """The best evaluated step so far.

    Attributes:
        step: steps done when it was evaluated.
        value: of the ranking metric.
    """

    step: int
    value: float


class CheckpointCallback(Callback):
    """Saves every N steps, at an evaluated step among the best, at the end, and when the run is interrupted.

    Args:
        checkpoints: folder of the checkpoints.
        model: folder that always holds the best checkpoint's model, or the newest one's where nothing is ranked.
        every_n_steps: steps between two checkpoints; None saves for the other reasons only.
        keep_best: how many of the best stay beside the newest.
        metric: which metric ranks.
        write: writes the present state into the folder of the checkpoints and returns the checkpoint; called on every
            process.
        on_best: told of a new best, on the main process; told again when a run is continued.
        report: shows one line to the user.
    """

    priority = 60

    def __init__(
        self,
        checkpoints: Path,
        model: Path,
        *,
        every_n_steps: int | None,
        keep_best: int,
        metric: BestMetric,
        write: Callable[[Trainer], Path | None],
        on_best: Callable[[Best], None],
        report: Callable[[str], None],
    ) -> None:
        self.checkpoints = checkpoints
        self.model = model
        self.every_n_steps = every_n_steps
        self.keep_best = keep_best
        self.metric = metric
        self.write = write
        self.on_best = on_best
        self.report = report
        self.ranking: list[Best] = []
        self._ranking_on_disk: list[Best] = []
        self._saved_step = -1

    @property
    def best(self) -> Best | None:
        """The best evaluated step, None before the first evaluation."""
        return self.ranking[0] if self.ranking else None

    def on_train_begin(self, trainer: Trainer) -> None:
        """The position that a run starts from is saved already, but an interruption may have come before its model."""
        self._saved_step = trainer.state.step
        step = trainer.state.step if self.best is None else self.best.step
        source = self.checkpoints / checkpoint.folder_name(step)
        if is_main_process() and checkpoint.is_sound(source):
            self._publish(source)

    def on_validation_end(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        """Ranks the present step."""
        value = metrics.get(self.metric.name)
        if value is None or value != value:
            return
        self._ranking_on_disk = self.ranking
        sign = 1.0 if self.metric.mode == "min" else -1.0
        entries = [*self.ranking, Best(trainer.state.step, value)]
        self.ranking = sorted(entries, key=lambda best: (sign * best.value, best.step))[: self.keep_best]

    def on_step_end(self, trainer: Trainer, result: StepResult) -> None:
        """Saves when it is time."""
        is_due = self.every_n_steps is not None and result.step % self.every_n_steps == 0
        is_among_best = any(best.step == result.step for best in self.ranking)
        if is_due or is_among_best or result.step == trainer.length.total_steps:
            trainer.request_save()

    def on_train_end(self, trainer: Trainer) -> None:
        """Saves the position of a run that was interrupted or ended early."""
        # After an error, be it a KeyboardInterrupt, the weights may be those of half a step.
        if trainer.lifecycle.error is None and trainer.lifecycle.reason in _EARLY_ENDS:
            trainer.save()

    def on_checkpoint(self, trainer: Trainer) -> None:
        """Writes the present state once, and prunes only after it is complete."""
        if trainer.state.step == self._saved_step:
            return
        try:
            written = self.write(trainer)
            self._saved_step = trainer.state.step
            if written is not None:
                self._settle(trainer, written)
        except (CheckpointError, OSError) as error:
            if trainer.state.step >= trainer.length.total_steps:
                raise
            self.report(f"warning: {error}; training goes on")
            if any(best.step == trainer.state.step for best in self.ranking):
                self.ranking = self._ranking_on_disk

    def _settle(self, trainer: Trainer, written: Path) -> None:
        """Makes a complete checkpoint the model if it is the best, and removes what is neither best nor newest."""
        if self.best is None or self.best.step == trainer.state.step:
            self._publish(written)
        best_names = {checkpoint.folder_name(best.step) for best in self.ranking}
        checkpoint.prune(self.checkpoints, {written.name, *best_names})

    def state_dict(self) -> dict[str, Any]:
        """The ranking."""
        return {"ranking": [[best.step, best.value] for best in self.ranking]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the ranking back."""
        self.ranking = [Best(int(step), float(value)) for step, value in state["ranking"]][: self.keep_best]

    def _publish(self, source: Path) -> None:
        """Makes a checkpoint the run's model: the best one, or the newest where nothing has been ranked."""
        publish_model(source, self.model)
        if self.best is not None:
            self.on_best(self.best)


def publish_model(source: Path, model: Path) -> None:
    """Makes `model` the loadable part of a checkpoint.

    Weights are hard-linked where the disk allows it; the small files, which people edit, are copied.
    """
    aside, previous = model.with_name(model.name + ".partial"), model.with_name(model.name + ".previous")
    for path in (aside, previous):
        shutil.rmtree(path, ignore_errors=True)
    aside.mkdir(parents=True)
    for file in sorted(source.iterdir()):
        if file.name not in (checkpoint.OPTIMIZER, checkpoint.STATE, checkpoint.MANIFEST):
            place = _link_or_copy if file.suffix == ".safetensors" else shutil.copy2
            place(file, aside / file.name)
    if model.exists():
        model.rename(previous)
    aside.rename(model)
    shutil.rmtree(previous, ignore_errors=True)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
