"""Which run a training command is: a run of its own, or one that is continued."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from recipe_exp.config.compose import compose
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.relevance import changes, differences, numbers_relevant, overlay
from recipe_exp.errors import ConfigError, ResumeError
from recipe_exp.tracking import PARENT_RUN_ID_VARIABLE, RunFolder, find_run, is_alive, list_runs

MAX_NEAR_DIFFERENCES = 3


@dataclass(frozen=True)
class RunChoice:
    """What to do.

    Attributes:
        config: the configuration to run; a run continued by its id brings its own.
        folder: the run to continue, None for a run of its own.
        is_finished: whether that run is done already.
    """

    config: ExperimentConfig
    folder: Path | None = None
    is_finished: bool = False


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
    folder = find_run(Path(config.output_dir), config.resume)
    stored, usual = ExperimentConfig.from_yaml(folder.config_path), compose()
    # Moved files are still the same data; the fingerprint decides.
    changed = [line for line in changes(stored, config, usual) if not line.startswith("data.path:")]
    _refuse_differences(folder, changed)
    places = {"output_dir": config.output_dir, "resume": config.resume}
    continued = overlay(stored, config, usual).model_copy(update=places)
    return RunChoice(continued, folder.path, is_finished=_is_finished(folder))


def _choose_latest(config: ExperimentConfig) -> RunChoice:
    """Takes the newest unfinished run with the same numbers-relevant keys, else a finished one.

    A run of its own starts only if none is similar; among the trials of a sweep similar ones are the rule.
    """
    wanted = numbers_relevant(config)
    finished: RunFolder | None = None
    similar: tuple[RunFolder, list[str]] | None = None
    for folder in list_runs(Path(config.output_dir), kind="run"):
        try:
            stored = ExperimentConfig.from_yaml(folder.config_path)
        except ConfigError:
            continue
        changed = differences(numbers_relevant(stored), wanted)
        if not changed and not _is_finished(folder):
            return RunChoice(config, folder.path)
        if not changed:
            finished = finished or folder
        elif similar is None and len(changed) <= MAX_NEAR_DIFFERENCES and _is_left_over(folder):
            similar = folder, changed
    if finished is not None:
        return RunChoice(config, finished.path, is_finished=True)
    if similar is not None and PARENT_RUN_ID_VARIABLE not in os.environ:
        _refuse_differences(*similar)
    return RunChoice(config)


def _is_left_over(folder: RunFolder) -> bool:
    return not _is_finished(folder) and not is_alive(folder)


def _refuse_differences(folder: RunFolder, changed: list[str]) -> None:
    if changed:
        raise ResumeError(
            "\n".join(
                [
                    f"resume: {folder.path.name} was started with other numbers-relevant keys; "
                    "set them back, or leave out resume=... for a run of its own",
                    *(f"  {line}" for line in changed),
                ]
            )
        )


def _is_finished(folder: RunFolder) -> bool:
    return folder.read_record().get("status") == "finished"
