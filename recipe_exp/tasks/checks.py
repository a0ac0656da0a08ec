"""What can be known to be wrong before PyTorch is loaded, beyond the schema: it takes other parts to know."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.task import TrainTask
from recipe_exp.data.prompts import find_template, parse_prompt
from recipe_exp.errors import ConfigError
from recipe_exp.tasks.run_choice import choose_run
from recipe_exp.tracking import address_mistakes


def check(config: ExperimentConfig) -> None:
    """Refuses a command whose task would fail at its first look at the configuration.

    Raises:
        ConfigError: every unknown template, unreadable prompt, missing module of one's own and missing address to
            notify, one line each.
        ResumeError: if continuing the run would change numbers.
        CheckpointError: if the run to continue does not exist.
    """
    readers = [config.data.format] if ":" in config.data.format else []
    mistakes = [
        *_prompt_mistakes(config),
        *_module_mistakes("training.callbacks", config.training.callbacks),
        *_module_mistakes("data.format", readers),
    ]
    if isinstance(config.task, TrainTask):
        mistakes += address_mistakes(config.tracking.notify)
    if mistakes:
        raise ConfigError(mistakes)
    if isinstance(config.task, TrainTask):
        choose_run(config)


def _prompt_mistakes(config: ExperimentConfig) -> Iterator[str]:
    try:
        template = find_template(config.data.prompt)
        for prompt in config.evaluation.validation_prompts:
            parse_prompt(prompt, template)
    except ConfigError as error:
        yield from error.mistakes


def _module_mistakes(key: str, names: Sequence[str]) -> Iterator[str]:
    # `python -m` looks for modules where it was started; a console script does not.
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    for name in names:
        module = name.partition(":")[0]
        try:
            found = find_spec(module) is not None
        except (ImportError, ValueError):
            found = False
        if not found:
            yield f"{key}={name}: no module {module} here; it must be importable from this folder"
