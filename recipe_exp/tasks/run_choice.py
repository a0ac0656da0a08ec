"""Which run a training command is: a run of its own, or one that is continued."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from recipe_exp.config.compose import compose
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.relevance import differences, numbers_relevant
from recipe_exp.errors import ConfigError, ResumeError
from recipe_exp.tracking import RunFolder, find_run, is_alive, list_runs

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
    stored = ExperimentConfig.from_yaml(folder.config_path)
    if numbers_relevant(config) == numbers_relevant(compose()):
        config = stored.model_copy(
            update={"output_dir": config.output_dir, "resume": config.resume, "run_name": stored.run_name}
        )
    ignored = {"data.path"}
    then = {key: value for key, value in numbers_relevant(stored).items() if key not in ignored}
    now = {key: value for key, value in numbers_relevant(config).items() if key not in ignored}
    _refuse_differences(folder, differences(then, now))
    return RunChoice(config, folder.path, is_finished=_is_finished(folder))


def _choose_latest(config: ExperimentConfig) -> RunChoice:
    """Takes the newest run with the same numbers-relevant keys; refuses if only a similar one is unfinished."""
    wanted = numbers_relevant(config)
    similar: tuple[RunFolder, list[str]] | None = None
    for folder in list_runs(Path(config.output_dir), kind="run"):
        try:
            stored = ExperimentConfig.from_yaml(folder.config_path)
        except ConfigError:
            continue
        changed = differences(numbers_relevant(stored), wanted)
        if not changed:
            return RunChoice(config, folder.path, is_finished=_is_finished(folder))
        is_near = len(changed) <= MAX_NEAR_DIFFERENCES and not _is_finished(folder) and not is_alive(folder)
        if similar is None and is_near:
            similar = folder, changed
    if similar is not None:
        _refuse_differences(*similar)
    return RunChoice(config)


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
