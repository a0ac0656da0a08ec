"""Messages to a person who is not at the machine, while the run goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from recipe_exp.tracking import Message, Progress, notices
from recipe_exp.training.callbacks.callback import Callback
from recipe_exp.training.callbacks.checkpoint import Best

if TYPE_CHECKING:
    from recipe_exp.training.trainer import Trainer

SECONDS_BETWEEN_BESTS = 60.0


class NotifyCallback(Callback):
    """Says that the run began, that a better checkpoint was saved, and now and then how far it is.

    Its end is said by whoever knows how it ended.

    Args:
        send: takes a message and does not wait.
        run_name: what people call the run.
        where: machine and folder.
        every_minutes: between two messages on the progress; None sends none.
        metric: that ranks checkpoints.
        best: returns the best checkpoint so far.
        sample: returns a prompt and what the model made of it, None before there is one.
        now: seconds of a monotonic clock.
    """

    priority = 30

    def __init__(
        self,
        send: Callable[[Message], None],
        *,
        run_name: str,
        where: str,
        every_minutes: float | None,
        metric: str,
        best: Callable[[], Best | None],
        sample: Callable[[], tuple[str, str] | None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.send = send
        self.run_name = run_name
        self.where = where
        self.every_minutes = every_minutes
        self.metric = metric
        self.best = best
        self.sample = sample
        self.now = now
        self.progress: Progress | None = None
        self._began_at, self._first_step = 0.0, 0
        self._progress_sent_at, self._best_sent_at = 0.0, float("-inf")
        self._known_best: Best | None = None

    def on_train_begin(self, trainer: Trainer) -> None:
        """Says that the run begins or goes on."""
        self._began_at = self._progress_sent_at = self.now()
        self._first_step = trainer.state.step
        self._known_best = self.best()
        self.send(notices.started(self.run_name, self._take_note(trainer), self.where))

    def on_log(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        """Says how far the run is when it is time."""
        progress = self._take_note(trainer)
        is_due = self.every_minutes is not None and self.now() - self._progress_sent_at >= 60.0 * self.every_minutes
        if is_due and "train/loss" in metrics and trainer.state.step < trainer.length.total_steps:
            self._progress_sent_at = self.now()
            left = self._seconds_left(trainer)
            self.send(notices.going_on(self.run_name, progress, left, trainer.metrics, self.sample()))

    def on_checkpoint(self, trainer: Trainer) -> None:
        """Says that there is a better checkpoint, now that it is saved."""
        total_steps, best = self._take_note(trainer).total_steps, self.best()
        if best is None or best == self._known_best or self.now() - self._best_sent_at < SECONDS_BETWEEN_BESTS:
            return
        before = self._known_best.value if self._known_best is not None else None
        self._known_best, self._best_sent_at = best, self.now()
        place = Progress(best.step, total_steps)
        self.send(notices.new_best(self.run_name, place, self.metric, best.value, before, self.sample()))

    def on_train_end(self, trainer: Trainer) -> None:
        """Notes where the run stopped."""
        self._take_note(trainer)

    def _take_note(self, trainer: Trainer) -> Progress:
        self.progress = Progress(trainer.state.step, trainer.length.total_steps)
        return self.progress

    def _seconds_left(self, trainer: Trainer) -> float | None:
        num_steps = trainer.state.step - self._first_step
        if num_steps <= 0:
            return None
        # By the clock on the wall, evaluations and saves included.
        return (self.now() - self._began_at) / num_steps * (trainer.length.total_steps - trainer.state.step)
