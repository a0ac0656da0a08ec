"""The events of a run, and what may listen to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

from recipe_exp.errors import ConfigError
from recipe_exp.training.state import StepResult

if TYPE_CHECKING:
    from recipe_exp.training.trainer import Trainer

EVENTS = (
    "on_train_begin",
    "on_train_end",
    "on_epoch_begin",
    "on_epoch_end",
    "on_step_begin",
    "on_step_end",
    "on_log",
    "on_validation_begin",
    "on_validation_end",
    "on_checkpoint",
)


class Callback:
    """Listens to a run. Override the events you need; what is not overridden costs nothing.

    Attributes:
        priority: callbacks with a higher priority hear an event first; the built-in ones use 90 (metrics), 80
            (evaluation), 70 (early stopping), 60 (checkpoints), 50 (journal) and 40 (console).
    """

    priority: int = 0

    def on_train_begin(self, trainer: Trainer) -> None:
        """Before the first step, after a resumed position has been restored."""

    def on_train_end(self, trainer: Trainer) -> None:
        """After the last step, whatever ended the run; also when it failed."""

    def on_epoch_begin(self, trainer: Trainer) -> None:
        """Before the first step of every epoch."""

    def on_epoch_end(self, trainer: Trainer) -> None:
        """After the last step of every epoch."""

    def on_step_begin(self, trainer: Trainer) -> None:
        """Before every step."""

    def on_step_end(self, trainer: Trainer, result: StepResult) -> None:
        """After every step. Reading a tensor of the result makes the host wait for the device."""

    def on_log(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        """When metrics of the present step are ready."""

    def on_validation_begin(self, trainer: Trainer) -> None:
        """Before held-out recipes are evaluated."""

    def on_validation_end(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        """After held-out recipes have been evaluated."""

    def on_checkpoint(self, trainer: Trainer) -> None:
        """When the state of a run is to be saved."""

    def state_dict(self) -> dict[str, Any]:
        """Returns what must survive an interruption, as plain JSON data."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` returned."""


class CallbackList:
    """Calls every callback in order of priority, in order of registration where it is equal.

    Raises:
        ConfigError: if a callback has a method `on_...` that is no event.
    """

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        mistakes = [line for callback in callbacks for line in _strange_events(callback)]
        if mistakes:
            raise ConfigError(mistakes)
        self.callbacks = sorted(callbacks, key=lambda callback: -callback.priority)

    def call(self, event: str, *arguments: Any) -> None:
        """Calls `event` of every callback."""
        for callback in self.callbacks:
            getattr(callback, event)(*arguments)

    def close(self, trainer: Trainer) -> None:
        """Calls `on_train_end` of every callback, whatever became of the others.

        The first failure is raised at the end; beside an error that ended the run it is only a note.
        """
        failures = []
        for callback in self.callbacks:
            try:
                callback.on_train_end(trainer)
            except Exception as error:
                failures.append(error)
        if not failures:
            return
        if trainer.lifecycle.error is None:
            raise failures[0]
        for failure in failures:
            trainer.lifecycle.error.add_note(f"on_train_end failed too: {type(failure).__name__}: {failure}")

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of every callback by its class's name."""
        return {name: callback.state_dict() for name, callback in self._named()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the states back; a callback that was not there when they were saved keeps its own."""
        for name, callback in self._named():
            if name in state:
                callback.load_state_dict(state[name])

    def _named(self) -> Iterable[tuple[str, Callback]]:
        counts: dict[str, int] = {}
        for callback in self.callbacks:
            name = type(callback).__qualname__
            counts[name] = counts.get(name, 0) + 1
            yield (name if counts[name] == 1 else f"{name}#{counts[name]}"), callback


def import_callbacks(names: Sequence[str]) -> list[Callback]:
    """Returns one instance of every `module:Class`.

    Raises:
        ConfigError: if one cannot be imported, is no `Callback` or cannot be made without arguments.
    """
    mistakes: list[str] = []
    callbacks = []
    for name in names:
        try:
            callbacks.append(_import_callback(name))
        except ConfigError as error:
            mistakes += error.mistakes
    if mistakes:
        raise ConfigError(mistakes)
    return callbacks


def _import_callback(name: str) -> Callback:
    module_name, _, class_name = name.partition(":")
    # A user's module runs here, so any error is possible, and none is worth more than its line.
    try:
        found = getattr(import_module(module_name), class_name)
    except Exception as error:
        raise ConfigError(
            [f"training.callbacks={name}: {_line_of(error)}; the module must be importable from here"]
        ) from error
    if not (isinstance(found, type) and issubclass(found, Callback)):
        raise ConfigError([f"training.callbacks={name}: not a subclass of recipe_exp.Callback"])
    try:
        return found()
    except Exception as error:
        raise ConfigError([f"training.callbacks={name}: {_line_of(error)}; it is made without arguments"]) from error


def _line_of(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _strange_events(callback: Callback) -> list[str]:
    strange = [name for name in dir(type(callback)) if name.startswith("on_") and name not in EVENTS]
    lines = []
    for name in strange:
        nearest = get_close_matches(name, EVENTS, n=1, cutoff=0.0)[0]
        lines.append(f"{type(callback).__name__}.{name}: no such event; did you mean {nearest}?")
    return lines
