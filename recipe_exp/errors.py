"""The package's one exception tree: every error that a user can cause carries one line and an exit code."""

from __future__ import annotations

from collections.abc import Sequence


class RecipeExpError(Exception):
    """An error whose message is complete for its reader: what, where and the remedy, in one line.

    `exit_code` is what the command line exits with when the error reaches it.
    """

    exit_code = 2


class ConfigError(RecipeExpError):
    """One or more mistakes in a configuration, reported together.

    Args:
        mistakes: one line each, in the form `key=value: what is wrong; the remedy`.
    """

    def __init__(self, mistakes: Sequence[str]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(self.mistakes))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[tuple[str, ...]]]:
        return type(self), (self.mistakes,)


class DataError(RecipeExpError):
    """Input data that cannot be read, is empty, or breaks a bound set in `data`."""


class ModelError(RecipeExpError):
    """A model, tokenizer or adapter that is missing, of the wrong shape or not supported."""


class HardwareError(RecipeExpError):
    """The machine lacks what the configuration asks for."""


class CheckpointError(RecipeExpError):
    """A checkpoint or run folder that is missing, damaged or belongs to another configuration."""


class ResumeError(CheckpointError):
    """Resuming would silently change numbers; the message lists each `key: then -> now`."""


class TrackingError(RecipeExpError):
    """The tracking server or the journal cannot do what was asked."""


class TrainingError(RecipeExpError):
    """Training stopped because going on would give wrong numbers, such as a non-finite loss."""

    exit_code = 1


class SweepError(RecipeExpError):
    """At least one trial of a sweep did not finish."""

    exit_code = 1
