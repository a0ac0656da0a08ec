"""When a checkpoint is written, which ones stay, and which one is the run's model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipe_exp.errors import CheckpointError
from recipe_exp.files import reason_of
from recipe_exp.hardware.processes import is_main_process
from recipe_exp.training import checkpoint
from recipe_exp.training.callbacks.callback import Callback
from recipe_exp.training.callbacks.evaluation import BestMetric
from recipe_exp.training.guard import RollbackError
from recipe_exp.training.lifecycle import StopReason
from recipe_exp.training.model_folder import is_published, publish_model, remove_leftovers
from recipe_exp.training.state import StepResult

if TYPE_CHECKING:
    from recipe_exp.training.trainer import Trainer

_EARLY_ENDS = (StopReason.EARLY_STOPPING, StopReason.PRUNED)
_INTERRUPTIONS = (StopReason.SIGINT, StopReason.SIGTERM, StopReason.TIME_LIMIT)


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

    A save that fails costs a warning and the checkpoints before stay; training goes on and the next save tries again.
    Only where nothing comes after it, at the end of the run, it is an error.

    Args:
        checkpoints: folder of the checkpoints.
        model: folder that always holds the best checkpoint's model, or the newest one's where nothing is ranked.
        every_n_steps: steps between two checkpoints; None saves for the other reasons only.
        keep_best: how many of the best stay beside the newest.
        metric: which metric ranks.
        write: writes the present state into the folder of the checkpoints and returns the checkpoint; called on every
            process, of which only the main one gets a path.
        on_best: told of a new best, on the main process; told again when a run is continued.
        report: shows one line to the user.
        resume_command: continues the run.
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
        resume_command: str,
    ) -> None:
        self.checkpoints = checkpoints
        self.model = model
        self.every_n_steps = every_n_steps
        self.keep_best = keep_best
        self.metric = metric
        self.write = write
        self.on_best = on_best
        self.report = report
        self.resume_command = resume_command
        self.ranking: list[Best] = []
        self._ranking_on_disk: list[Best] = []
        self._saved_step = -1
        self._is_model_due = False
        self._was_save_reported = False

    @property
    def best(self) -> Best | None:
        """The best evaluated step, None before the first evaluation."""
        return self.ranking[0] if self.ranking else None

    def on_train_begin(self, trainer: Trainer) -> None:
        """The position that a run starts from is saved already, but an interruption may have come before its model."""
        if trainer.is_save_due:
            trainer.save()
        self._saved_step = trainer.state.step
        if not is_main_process():
            return
        remove_leftovers(self.model)
        source = self._model_source(trainer)
        # The checkpoint that the run starts from has just been verified.
        if source.is_dir() and (checkpoint.step_of(source) == trainer.state.step or self._is_sound(source)):
            failure = self._publish(source)
            # What lies beyond the position is damaged, or the run would start there; a person may want to look at it.
            found = checkpoint.list_checkpoints(self.checkpoints)
            self._prune({path.name for path in found if checkpoint.step_of(path) >= trainer.state.step})
            self._go_on_without(trainer, failure)

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
        if trainer.lifecycle.error is None and trainer.lifecycle.reason is not StopReason.FINISHED:
            try:
                trainer.save()
            except RollbackError as fault:
                self.report(f"warning: {fault}; nothing is saved, and the run will go on from that checkpoint")

    def on_checkpoint(self, trainer: Trainer) -> None:
        """Writes the present state once, and prunes only after it is complete."""
        if trainer.state.step == self._saved_step:
            return
        try:
            written = self.write(trainer)
        except CheckpointError as error:
            self._go_on_without(trainer, f"{error}{self._forget_unsaved(trainer.state.step)}", is_save=True)
            return
        self._saved_step = trainer.state.step
        self._was_save_reported = False
        if written is not None:
            self._settle(trainer, written)

    def _forget_unsaved(self, step: int) -> str:
        """Takes a step that is not on the disk out of the ranking, and says so if it was the best."""
        was_best = self.best is not None and self.best.step == step
        if any(best.step == step for best in self.ranking):
            self.ranking = self._ranking_on_disk
        return f"; this step is the best so far, and {self.model.name}/ stays as it was" if was_best else ""

    def _settle(self, trainer: Trainer, written: Path) -> None:
        """Makes a complete checkpoint the model if it is the best, and removes what is neither best nor newest."""
        source = self._model_source(trainer)
        failure = self._publish(source) if self._is_model_due or source == written else None
        self._prune({written.name})
        self._go_on_without(trainer, failure)

    def _prune(self, kept: set[str]) -> None:
        checkpoint.prune(self.checkpoints, kept | {checkpoint.folder_name(best.step) for best in self.ranking})

    def state_dict(self) -> dict[str, Any]:
        """The ranking."""
        return {"ranking": [[best.step, best.value] for best in self.ranking]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the ranking back."""
        self.ranking = [Best(int(step), float(value)) for step, value in state["ranking"]][: self.keep_best]

    def _model_source(self, trainer: Trainer) -> Path:
        """The checkpoint that is the run's model: the best one, or the newest where nothing has been ranked."""
        step = trainer.state.step if self.best is None else self.best.step
        return self.checkpoints / checkpoint.folder_name(step)

    def _is_sound(self, source: Path) -> bool:
        # Weights that were published once are not read again.
        return is_published(source, self.model) or checkpoint.is_sound(source)

    def _publish(self, source: Path) -> str | None:
        """Makes a checkpoint the run's model; returns why the disk refused, after which the next checkpoint tries."""
        try:
            if not is_published(source, self.model):
                publish_model(source, self.model)
            if self.best is not None:
                self.on_best(self.best)
        except (CheckpointError, OSError) as error:
            self._is_model_due = True
            name = str(getattr(error, "filename", None) or self.model)
            place = self.model if name.startswith(str(self.model)) else name
            return f"{place}: cannot be written ({reason_of(error)}) and stays as it was"
        self._is_model_due = False
        return None

    def _go_on_without(self, trainer: Trainer, failure: str | None, *, is_save: bool = False) -> None:
        """Says what failed; where nothing will come after it that could make it good, that is an error."""
        reason = trainer.lifecycle.reason
        if failure is None:
            return
        if reason in _INTERRUPTIONS:
            found = checkpoint.list_checkpoints(self.checkpoints)
            self.report(f"warning: {failure}; the run will go on from {found[-1].name if found else 'its beginning'}")
        elif reason in _EARLY_ENDS or trainer.state.step >= trainer.length.total_steps:
            raise CheckpointError(f"{failure}; free some space, then continue with {self.resume_command}")
        elif is_save and self._was_save_reported:
            self.report(f"warning: {checkpoint.folder_name(trainer.state.step)} could not be saved either")
        else:
            self._was_save_reported = is_save
            self.report(f"warning: {failure}; training goes on")
