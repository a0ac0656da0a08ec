"""The one door: `python -m recipe_exp [overrides]`."""

from __future__ import annotations

import importlib
import sys
from argparse import ArgumentError, Namespace
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.utils import get_args_parser

from recipe_exp.config.compose import compose_command, group_options
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.messages import show_line
from recipe_exp.config.preflight import explain_flag
from recipe_exp.errors import ConfigError, RecipeExpError
from recipe_exp.hardware.processes import is_main_process

USAGE = """\
Fine-tune T5 models on recipes.

  python -m recipe_exp [task=NAME] [group=option ...] [key=value ...]

  python -m recipe_exp                                      train a tiny model on generated recipes
  python -m recipe_exp data=jsonl data.path=recipes/        on one's own
  python -m recipe_exp model=flan_t5_xxl training=lora      another model, another way to tune it
  python -m recipe_exp -m training.learning_rate=1e-4,1e-3  a sweep; or a ready one: sweeps=learning_rate
  python -m recipe_exp task=generate task.run=latest 'task.prompts=["Write a recipe for pancakes."]'

Groups (choose with group=option)
{groups}

Flags
  --cfg job      print the complete configuration with every key, and stop
  -m             sweep: keys with several values, separated by commas
  --hydra-help   Hydra's own flags

A mistake in the configuration exits with 2, a failure of the run with 1, SIGINT with 130 and SIGTERM with 143.
"""

IDLE_FLAGS = {
    "--config-dir": "options of one's own live in the folder that RECIPE_EXP_CONFIG_DIR names",
    "--config-name": "choose options with group=option",
    "--config-path": "choose options with group=option",
    "--experimental-rerun": "repeat the command with resume=latest",
    "--package": "--cfg job prints every section",
    "--resolve": "--cfg job prints what every key resolves to",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; a mistake of the user's is printed as one line each."""
    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments))
    except RecipeExpError as error:
        if is_main_process():
            for line in str(error).split("\n"):
                print(f"error: {line}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _run(arguments: list[str]) -> int:
    _load_secrets()
    flags = _parse_flags(arguments)
    if flags.help:
        print(USAGE.format(groups=_group_table()))
        return 0
    if _is_for_hydra(flags):
        return _hand_to_hydra(arguments)
    if flags.multirun and flags.cfg is None:
        return _hand_to_hydra(arguments)
    composition = compose_command(flags.overrides, is_sweep=flags.multirun, check_files=flags.cfg is None)
    if flags.cfg:
        print(composition.config.to_yaml(), end="")
        return 0
    if composition.is_sweep:
        return _hand_to_hydra(arguments)
    return run_task(composition.config)


def _parse_flags(arguments: list[str]) -> Namespace:
    """Splits Hydra's flags from the overrides.

    Raises:
        ConfigError: with a line for each flag that is unknown, needs a value or does nothing here.
    """
    parser = get_args_parser()
    parser.exit_on_error = False
    try:
        flags, unknown = parser.parse_known_args(arguments)
    except ArgumentError as error:
        raise ConfigError([f"{error.argument_name}: {error.message}"]) from None
    names = [argument.partition("=")[0] for argument in unknown if argument.startswith("-")]
    mistakes = [f"{show_line(name)}: {explain_flag(name)}" for name in names]
    if not _is_for_hydra(flags):
        idle = [flag for flag in IDLE_FLAGS if getattr(flags, flag.strip("-").replace("-", "_"))]
        mistakes += [f"{flag}: does nothing here; {IDLE_FLAGS[flag]}" for flag in idle]
    if mistakes:
        raise ConfigError(mistakes)
    return flags


def run_task(config: ExperimentConfig) -> int:
    """Runs the task that the configuration chooses and returns its exit code."""
    from recipe_exp.tasks.checks import check

    check(config)
    exit_code = importlib.import_module(f"recipe_exp.tasks.{config.task.kind}").run(config)
    assert isinstance(exit_code, int)
    return exit_code


def _is_for_hydra(flags: Namespace) -> bool:
    return bool(flags.hydra_help or flags.info or flags.shell_completion or flags.cfg in ("hydra", "all"))


def _hand_to_hydra(arguments: list[str]) -> int:
    """Lets Hydra split a sweep into trials; our launcher runs each as a process of its own."""
    from recipe_exp.sweeping.launcher import run_sweep

    return run_sweep(arguments)


def _load_secrets() -> None:
    if Path(".env").is_file():
        from dotenv import load_dotenv

        load_dotenv(".env")


def _group_table() -> str:
    options = group_options()
    width = max(map(len, options))
    return "\n".join(f"  {group:<{width}}  {', '.join(names)}" for group, names in options.items() if names)


if __name__ == "__main__":
    sys.exit(main())
