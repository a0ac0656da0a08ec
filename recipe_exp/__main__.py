"""The one door: `python -m recipe_exp [overrides]`."""

from __future__ import annotations

import gc

# What is imported stays for good: looking for garbage in it is a tenth of the time until the first answer.
gc.disable()

import importlib
import io
import sys
import textwrap
from argparse import ArgumentError, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra._internal.utils import get_args_parser

from recipe_exp import signals
from recipe_exp.config.compose import check_overrides, group_options, read_command
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.messages import in_one_line, show_line, show_path
from recipe_exp.config.preflight import explain_flag, find_secrets
from recipe_exp.errors import ConfigError, ExitCode, RecipeExpError
from recipe_exp.files import DISK_FAULTS, printing_on_full_disk, read_regular_file
from recipe_exp.hardware.processes import is_main_process
from recipe_exp.secrets import redact, redact_known, redact_traces
from recipe_exp.signals import Interrupted
from recipe_exp.sweeping.grid import plan_trials

gc.freeze()
gc.enable()

USAGE = """\
Fine-tune T5 models on recipes.

  python -m recipe_exp [task=NAME] [group=option ...] [key=value ...]

  python -m recipe_exp                                      train a tiny model on generated recipes
  python -m recipe_exp data=files data.path=recipes/        on one's own
  python -m recipe_exp model=flan_t5_xxl training=lora      another model, another way to tune it
  python -m recipe_exp -m training.learning_rate=1e-4,1e-3  a sweep; or a ready one: sweeps=learning_rate
  python -m recipe_exp task=generate task.run=latest 'task.prompts=["Write a recipe for pancakes."]'

Groups (choose with group=option)
{groups}

Flags
  --cfg job      print the complete configuration with every key, and stop
  -m             sweep: keys with several values, separated by commas
  --hydra-help   Hydra's own flags

Exit codes: 0 done, 2 a mistake to mend, 1 a failure; worth repeating with resume=latest: 75 stopped by the time
limit or the stall watchdog, 143 by SIGTERM or SIGUSR1, 137 killed; 130 stopped by Ctrl-C.
"""

_HELP_COLUMNS = 100
MAX_MISTAKES = 20
MAX_MISTAKE_CHARACTERS = 600
MAX_SECRETS_BYTES = 2**20

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
    redact_traces()
    with printing_on_full_disk():
        return _in_one_line(list(sys.argv[1:] if arguments is None else arguments))


def _in_one_line(arguments: list[str]) -> int:
    try:
        with signals.raising():
            return _run(arguments)
    except RecipeExpError as error:
        if is_main_process():
            _print_mistakes(str(error).split("\n"))
        return error.exit_code
    except OSError as error:
        line = _line_of_disk_fault(error)
        if line is None:
            raise
        print(f"error: {line}, then repeat the command", file=sys.stderr)
        return ExitCode.MISTAKE
    except KeyboardInterrupt as interruption:
        if is_main_process():
            print("interrupted", file=sys.stderr)
        return interruption.exit_code if isinstance(interruption, Interrupted) else ExitCode.SIGINT


def _line_of_disk_fault(error: OSError) -> str | None:
    """What the disk refused and what to do about it; None if the error speaks of something else."""
    if error.errno in DISK_FAULTS:
        place = show_path(str(error.filename or "a file"))
        return f"{place}: {error.strerror}; make room on that disk"
    if "No usable temporary directory" in str(error):
        return "no folder for temporary files can be written; make room in it, or name another with TMPDIR"
    return None


def _run(arguments: list[str]) -> int:
    _load_secrets()
    flags = _parse_flags(arguments)
    arguments = _flags_first(arguments, flags.overrides)
    if flags.help:
        print(USAGE.format(groups=_group_table()))
        return 0
    if flags.hydra_help:
        print(_flag_table())
        return 0
    if _is_for_hydra(flags) or (flags.multirun and flags.cfg is None):
        if not flags.shell_completion:
            check_overrides(flags.overrides)
        return _hand_to_hydra(arguments)
    with _without_garbage_collection():
        composition = read_command(flags.overrides, is_sweep=flags.multirun, check_files=flags.cfg is None)
        if flags.cfg:
            trials = plan_trials(composition.trials, check_files=False) if composition.is_sweep else []
            print((trials[0] if trials else composition).config.to_yaml(), end="")
            return 0
    config = composition.config
    if composition.is_sweep:
        return _hand_to_hydra(arguments)
    return run_task(config)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Nothing of what a composition makes is garbage before its end."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _parse_flags(arguments: list[str]) -> Namespace:
    """Splits Hydra's flags from the overrides.

    Raises:
        ConfigError: with a line for each flag that is unknown, needs a value or does nothing here.
    """
    parser = get_args_parser()
    parser.exit_on_error = False
    try:
        # Words may stand on both sides of a flag; the plain way to parse would leave out those behind it.
        flags, unknown = parser.parse_known_intermixed_args(arguments)
    except ArgumentError as error:
        raise ConfigError([f"{error.argument_name}: {redact(error.message)}"]) from None
    names = [argument.partition("=")[0] for argument in unknown if argument.startswith("-")]
    mistakes = [f"{show_line(name)}: {explain_flag(name)}" for name in names]
    for flag, remedy in IDLE_FLAGS.items():
        is_for_hydra = flag in ("--package", "--resolve") and flags.cfg in ("hydra", "all")
        if getattr(flags, flag.strip("-").replace("-", "_")) and not is_for_hydra:
            mistakes.append(f"{flag}: does nothing here; {remedy}")
    mistakes += _flags_that_exclude_each_other(flags)
    if mistakes:
        raise ConfigError(mistakes)
    return flags


def _flags_first(arguments: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """Returns the words in the order in which Hydra understands them."""
    flags = list(arguments)
    for word in overrides:
        flags.remove(word)
    return [*flags, *overrides]


def _flags_that_exclude_each_other(flags: Namespace) -> list[str]:
    is_cfg_of_sweep = flags.cfg == "job" and flags.multirun
    chosen = {
        "--run": flags.run,
        "--multirun": flags.multirun and not is_cfg_of_sweep,
        "--cfg": flags.cfg,
        "--info": flags.info,
        "--shell-completion": flags.shell_completion,
    }
    names = [name for name, value in chosen.items() if value]
    if len(names) > 1:
        return [f"{' '.join(names)}: each is a command of its own; give one of them"]
    asked = [word.partition("=")[0] for word in flags.overrides]
    if flags.shell_completion and asked not in (["install"], ["uninstall"], ["query"]):
        return ["--shell-completion: write install=SHELL, uninstall=SHELL or query=SHELL after it"]
    return []


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
    """Lets Hydra split a sweep into trials; our launcher runs each as a process of its own.

    Raises:
        ConfigError: a word holds a secret, which Hydra would repeat in its answers.
    """
    mistakes = find_secrets(arguments)
    if mistakes:
        raise ConfigError(mistakes)
    from recipe_exp.sweeping.launcher import run_sweep

    return run_sweep(arguments)


def _load_secrets() -> None:
    path = Path(".env")
    if not path.is_file():
        return
    from dotenv import load_dotenv

    try:
        text = read_regular_file(path, MAX_SECRETS_BYTES).decode("utf-8-sig")
        # Interpolated values would stand for each other without a bound.
        load_dotenv(stream=io.StringIO(text), interpolate=False)
    except (OSError, ValueError) as error:
        reason = "is not UTF-8" if isinstance(error, UnicodeError) else getattr(error, "strerror", None) or str(error)
        raise ConfigError([f".env: cannot be read: {reason}; write one NAME=value a line"]) from None


def _print_mistakes(lines: Sequence[str]) -> None:
    """Prints each mistake in one line of text, whatever a file name or a value in it would do to a terminal."""
    for line in lines[:MAX_MISTAKES]:
        print(f"error: {in_one_line(redact_known(line), MAX_MISTAKE_CHARACTERS)}", file=sys.stderr)
    if len(lines) > MAX_MISTAKES:
        print(f"error: and {len(lines) - MAX_MISTAKES:,} more mistakes", file=sys.stderr)


def _group_table() -> str:
    options = group_options()
    width = max(map(len, options))
    return "\n".join(
        textwrap.fill(
            ", ".join(map(in_one_line, names)),
            _HELP_COLUMNS,
            initial_indent=f"  {group:<{width}}  ",
            subsequent_indent=" " * (width + 4),
            break_long_words=False,
        )
        for group, names in options.items()
        if names
    )


def _flag_table() -> str:
    actions = [action for action in get_args_parser()._actions if action.option_strings]
    useful = [action for action in actions if action.option_strings[0] not in IDLE_FLAGS]
    return "\n".join(
        f"  {', '.join(action.option_strings):<24}  {str(action.help).partition(chr(10))[0]}" for action in useful
    )


if __name__ == "__main__":
    sys.exit(main())
