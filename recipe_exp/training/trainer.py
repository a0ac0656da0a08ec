"""The loop. What happens beside the arithmetic hangs on it as callbacks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from recipe_exp.data.loader import Window
from recipe_exp.errors import TrainingError
from recipe_exp.hardware.memory import OutOfMemoryError
from recipe_exp.training.callbacks.callback import Callback, CallbackList
from recipe_exp.training.guard import RollbackError
from recipe_exp.training.lifecycle import Lifecycle, StopReason
from recipe_exp.training.state import StepResult, TrainerState
from recipe_exp.training.time_spent import TimeSpent


@dataclass(frozen=True)
class RunLength:
    """How long a run is.

    Attributes:
        total_steps: optimizer steps.
        steps_per_epoch: windows of one pass over the training split.
    """

    total_steps: int
    steps_per_epoch: int


class Windows(Protocol):
    """The windows of a run from some step on; whoever prepares them ahead stops when closed."""

    def __next__(self) -> Window:
        """Returns the window of the next step."""

    def close(self) -> None:
        """Prepares no more."""


class Trainer:
    """Runs steps over windows until the run is long enough or something asks it to stop.

    Args:
        step: the arithmetic of one window.
        windows: returns the windows from a step on; they are closed before the run ends.
        length: how long the run is.
        callbacks: everything else.
        lifecycle: turns signals into a stop after the present step, the same one on every process.
        restore: puts back a saved position before the first step and returns nothing.
        roll_back: puts back the last good position after a fault; None ends the run with it.
        make_room: makes the coming windows need less memory after this one did not fit, or raises an error.
    """

    def __init__(
        self,
        step: Callable[[Window], StepResult],
        windows: Callable[[int], Windows],
        length: RunLength,
        callbacks: Sequence[Callback],
        lifecycle: Lifecycle,
        restore: Callable[[Trainer], None] | None = None,
        roll_back: Callable[[Trainer, RollbackError], None] | None = None,
        make_room: Callable[[Trainer, Window], None] | None = None,
    ) -> None:
        self.step = step
        self.windows = windows
        self.length = length
        self.callbacks = CallbackList(callbacks)
        self.lifecycle = lifecycle
        self.restore = restore
        self.roll_back = roll_back
        self.make_room = make_room
        self.state = TrainerState()
        self.metrics: dict[str, float] = {}
        self.clock = Stopwatch()
        self.spent = TimeSpent()
        self._is_save_due = False
        self._opened = ExitStack()
        self._windows: Windows

    def fit(self) -> StopReason:
        """Trains, and returns why it ended.

        The order of events is the order of the statements: begin; for every step its begin, the step and its end;
        epochs around them; and `on_train_end`, which is called whatever happened.
        """
        with self.lifecycle:
            try:
                if self.restore is not None:
                    self.restore(self)
                self.callbacks.call("on_train_begin", self)
                self._open_windows(self.state.step)
                self.clock.start()
                self.spent.start()
                while not self.finished():
                    try:
                        self._take_step()
                    except RollbackError as fault:
                        self._roll_back(fault)
            except BaseException as error:
                self.lifecycle.fail(error)
                raise
            finally:
                # A thread that still prepares a window while Python ends takes the process down with SIGABRT.
                with self._opened:
                    self.callbacks.close(self)
        return self.lifecycle.reason

    def _take_step(self) -> None:
        if self._at_epoch_start():
            self.callbacks.call("on_epoch_begin", self)
        self.callbacks.call("on_step_begin", self)
        result = self._learn()
        self._advance(result)
        self.callbacks.call("on_step_end", self, result)
        if self._at_epoch_start():
            self.callbacks.call("on_epoch_end", self)
        if self._is_save_due:
            self.save()

    def _learn(self) -> StepResult:
        """Takes the present window's step, in smaller micro-batches where it does not fit into memory."""
        while True:
            with self.spent.on("data_wait"):
                window = next(self._windows)
            with suppress(OutOfMemoryError):
                return self.step(window)
            # Here nothing holds the tensors of the failed attempt any more.
            if self.make_room is None:
                raise TrainingError(f"step {self.state.step + 1}: out of memory")
            self.make_room(self, window)
            self._open_windows(self.state.step)

    def _roll_back(self, fault: RollbackError) -> None:
        """Goes back to the last good state and on after the present step: the windows between are passed over."""
        step = self.state.step
        self._is_save_due = False
        if self.roll_back is None:
            raise TrainingError(str(fault)) from None
        self.roll_back(self, fault)
        self.state.num_skipped_steps += step - self.state.step
        self.state.step = step
        self._open_windows(step)

    def _open_windows(self, step: int) -> None:
        self._opened.close()
        self._windows = self.windows(step)
        self._opened.callback(self._windows.close)

    def finished(self) -> bool:
        """Returns whether the run is long enough or was asked to stop; all processes agree."""
        return self.state.step >= self.length.total_steps or self.lifecycle.should_stop()

    def stop(self, reason: StopReason) -> None:
        """Ends the run after the present step. A callback calls it on every process alike."""
        self.lifecycle.stop(reason)

    def log(self, metrics: Mapping[str, float]) -> None:
        """Hands metrics of the present step to every callback."""
        self.metrics.update(metrics)
        with self.spent.on("logging"):
            self.callbacks.call("on_log", self, metrics)

    def request_save(self) -> None:
        """Asks for a checkpoint once every callback has heard of the present step."""
        self._is_save_due = True

    @property
    def is_save_due(self) -> bool:
        """Whether a checkpoint has been asked for since the last one."""
        return self._is_save_due

    def save(self) -> None:
        """Saves the present position."""
        self._is_save_due = False
        with self.clock.paused(), self.spent.on("checkpoint"):
            self.callbacks.call("on_checkpoint", self)

    def validate(self, evaluate: Callable[[], Mapping[str, float]]) -> Mapping[str, float]:
        """Evaluates between two steps, with the events around it, and logs what came out.

        Raises:
            Interrupted: if a signal asks to stop before the evaluation has ended.
        """
        with self.clock.paused(), self.spent.on("evaluation"):
            self.callbacks.call("on_validation_begin", self)
            with self.lifecycle.interruptible():
                metrics = evaluate()
            self.log(metrics)
            self.callbacks.call("on_validation_end", self, metrics)
        return metrics

    @property
    def epoch(self) -> float:
        """Passes over the training split so far, with the fraction of the present one."""
        return self.state.step / self.length.steps_per_epoch

    def state_dict(self) -> dict[str, Any]:
        """Returns the position and every callback's state as plain data."""
        return {"trainer": self.state.state_dict(), "callbacks": self.callbacks.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` returned."""
        self.state.load_state_dict(state["trainer"])
        self.callbacks.load_state_dict(state["callbacks"])

    def _advance(self, result: StepResult) -> None:
        self.state.step = result.step
        self.state.num_examples += result.num_examples
        self.state.num_target_tokens += result.num_target_tokens

    def _at_epoch_start(self) -> bool:
        return self.state.step % self.length.steps_per_epoch == 0


class Stopwatch:
    """Seconds spent in steps, evaluation and saving left out."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._since: float | None = None

    def start(self) -> None:
        """Starts from zero."""
        self._seconds, self._since = 0.0, time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds counted so far."""
        running = time.perf_counter() - self._since if self._since is not None else 0.0
        return self._seconds + running

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out what happens inside; may be nested."""
        was_running = self._since is not None
        if was_running:
            self._seconds, self._since = self.seconds, None
        try:
            yield
        finally:
            if was_running:
                self._since = time.perf_counter()
