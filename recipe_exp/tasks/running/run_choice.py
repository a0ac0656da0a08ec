"""Which run a training command is: a run of its own, or one that is continued."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recipe_exp.config.compose import compose
from recipe_exp.config.experiment import ExperimentConfig, contradictions
from recipe_exp.config.relevance import LENGTH_KEYS, Difference, changes, differences, numbers_relevant, overlay
from recipe_exp.errors import CheckpointError, ConfigError
from recipe_exp.tasks.running.resume_rules import is_permitted, length_problem, planned_steps, refuse, span_of
from recipe_exp.tracking import PARENT_RUN_ID_VARIABLE, RunFolder, find_run, is_alive, list_runs

MAX_NEAR_DIFFERENCES = 3

# What a run that has ended goes on for: more steps, or more patience.
_EARLY_END_KEYS = ("training.early_stopping_patience", "training.early_stopping_threshold")


@dataclass(frozen=True)
class RunChoice:
    """What to do.

    Attributes:
        config: the configuration to run; a run continued by its id brings its own.
        folder: the run to continue, None for a run of its own.
        is_finished: whether that run is done already.
        differences: in which keys the run goes on with other values than before, all of them permitted.
        note: what a user should know of the choice.
        like: a run that is repeated on the machinery that it had; None asks the machine.
    """

    config: ExperimentConfig
    folder: Path | None = None
    is_finished: bool = False
    differences: tuple[Difference, ...] = ()
    note: str | None = None
    like: Path | None = None


@dataclass(frozen=True)
class _Candidate:
    """A run that a command may continue.

    Attributes:
        folder: of the run.
        record: its `run.json`.
        config: what it would be continued with.
        found: in which numbers-relevant keys that differs from what it was executed with.
    """

    folder: RunFolder
    record: dict[str, Any]
    config: ExperimentConfig
    found: list[Difference]

    @property
    def is_finished(self) -> bool:
        return self.record.get("status") == "finished"

    @property
    def forbidden(self) -> list[Difference]:
        """What `resume_allow` does not name."""
        return [difference for difference in self.found if not is_permitted(difference, self.config)]

    @property
    def problem(self) -> str | None:
        """What speaks against its length, as far as it is known before the data is opened."""
        total_steps = self._total_steps
        if total_steps is None or not any(difference.key in LENGTH_KEYS for difference in self.found):
            return None
        return length_problem(span_of(self.record), total_steps, self.record.get("step", 0), self.config)

    @property
    def has_further_to_go(self) -> bool:
        """Whether a run that has ended is asked for more than it was."""
        then = span_of(self.record)
        is_longer = then is not None and (self._total_steps or 0) > then.total_steps
        return is_longer or any(difference.key in _EARLY_END_KEYS for difference in self.found)

    @property
    def _total_steps(self) -> int | None:
        try:
            return planned_steps(self.config.training, int(self.record["data"]["num_examples"]["train"]))
        except (KeyError, TypeError):
            return None

    def refuse(self) -> None:
        """Raises ResumeError if the run must not be continued so."""
        refuse(self.folder.path.name, self.found, self.problem, self.config)

    def chosen(self) -> RunChoice:
        is_finished = self.is_finished and not self.has_further_to_go
        return RunChoice(self.config, self.folder.path, is_finished, tuple(self.found))


def choose_run(config: ExperimentConfig) -> RunChoice:
    """Reads `resume` and the runs under `output_dir`; writes nothing.

    Raises:
        ResumeError: if continuing would change numbers; the message lists each `key: then -> now`.
        CheckpointError: if the run that is named does not exist.
    """
    if config.resume is None:
        return RunChoice(config)
    if config.resume == "latest":
        return _choose_latest(config)
    return _choose_named(config, find_run(Path(config.output_dir), config.resume))


def _choose_named(config: ExperimentConfig, folder: RunFolder) -> RunChoice:
    stored, usual = ExperimentConfig.from_yaml(folder.config_path), compose()
    # Moved files are still the same data; the fingerprint decides.
    found = [difference for difference in changes(stored, config, usual) if difference.key != "data.path"]
    is_longer = any(difference.key in LENGTH_KEYS for difference in found)
    # A wish that was granted stays with the run; a further one has to be expressed.
    given = {
        "output_dir": config.output_dir,
        "resume": config.resume,
        "resume_allow": config.resume_allow,
        "resume_strict": config.resume_strict,
        "resume_schedule": config.resume_schedule if is_longer else config.resume_schedule or stored.resume_schedule,
    }
    continued = overlay(stored, config, usual).model_copy(update=given)
    if mistakes := list(contradictions(continued)):
        raise ConfigError(mistakes)
    candidate = _Candidate(folder, folder.read_record(), continued, found)
    candidate.refuse()
    return candidate.chosen()


def _choose_latest(config: ExperimentConfig) -> RunChoice:
    """Takes the newest unfinished run with the same numbers-relevant keys, else a finished one.

    Next come runs that differ in what the command permits: unfinished ones, and finished ones that it asks more of. A
    run of its own starts only if no unfinished one is similar; among the trials of a sweep similar ones are the rule.
    """
    finished: _Candidate | None = None
    others: list[_Candidate] = []
    for candidate in _candidates(config):
        if not candidate.found and not candidate.is_finished:
            return candidate.chosen()
        if not candidate.found:
            finished = finished or candidate
        elif _may_differ(candidate):
            others.append(candidate)
    if finished is not None:
        return finished.chosen()
    permitted = [candidate for candidate in others if not candidate.forbidden and candidate.problem is None]
    for candidate in permitted:
        if not candidate.is_finished or candidate.has_further_to_go:
            return candidate.chosen()
    for candidate in others:
        is_near = len(candidate.found) <= MAX_NEAR_DIFFERENCES
        if is_near and not candidate.is_finished and not is_alive(candidate.folder):
            candidate.refuse()
    return RunChoice(config, note=_note_of(others))


def _candidates(config: ExperimentConfig) -> Iterator[_Candidate]:
    """Yields every run whose configuration can be read, the newest first."""
    wanted = numbers_relevant(config)
    for folder in list_runs(Path(config.output_dir), kind="run"):
        try:
            stored = ExperimentConfig.from_yaml(folder.config_path)
            record = folder.read_record()
        except (ConfigError, CheckpointError):
            continue
        found = differences(numbers_relevant(stored), wanted)
        granted = config.resume_schedule or (None if found else stored.resume_schedule)
        yield _Candidate(folder, record, config.model_copy(update={"resume_schedule": granted}), found)


def _may_differ(candidate: _Candidate) -> bool:
    """A trial continues its like of an earlier sweep where the command says how, and never another trial's run."""
    parent = os.environ.get(PARENT_RUN_ID_VARIABLE)
    says_how = bool(candidate.config.resume_allow or candidate.config.resume_schedule)
    return parent is None or (says_how and candidate.record.get("parent_run_id") != parent)


def _note_of(others: list[_Candidate]) -> str:
    """Says that a run of its own starts, and which finished run differs in its length alone."""
    note = "note: no unfinished run of this configuration; starting a new one"
    for candidate in others:
        stretched = replace(candidate, config=candidate.config.model_copy(update={"resume_schedule": "stretch"}))
        if not stretched.forbidden and stretched.problem is None and stretched.has_further_to_go:
            return f"{note} (resume_schedule=stretch would continue {candidate.folder.run_id}, which is shorter)"
    return note
