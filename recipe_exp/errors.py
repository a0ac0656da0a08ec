"""The package's one exception tree: every error that a user can cause carries one line and an exit code."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum


class ExitCode(IntEnum):
    """What a process's exit code says, so that a script knows whether repeating the command is worth it."""

    FINISHED = 0
    """Done; so is a run that early stopping ended."""
    FAILED = 1
    """Something broke: repeating the same command would break again."""
    MISTAKE = 2
    """The configuration, the data or the machine must be mended first."""
    UNFINISHED = 75
    """Saved before its end, by the time limit or the stall watchdog: repeat it with `resume=latest`."""
    SIGINT = 130
    """A person stopped it; it can be continued."""
    KILLED = 137
    """It, or one of its processes, was killed: repeat it with `resume=latest`."""
    SIGTERM = 143
    """The machine was taken away (SIGTERM or SIGUSR1): repeat it with `resume=latest`."""


class RecipeExpError(Exception):
    """An error whose message is complete for its reader: what, where and the remedy, in one line.

    `exit_code` is what the command line exits with when the error reaches it.
    """

    exit_code = ExitCode.MISTAKE


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


class ExportError(ModelError):
    """What was written is not the model that was trained."""

    exit_code = ExitCode.FAILED


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

    exit_code = ExitCode.FAILED


class SweepError(RecipeExpError):
    """At least one trial of a sweep did not finish."""

    exit_code = ExitCode.FAILED
