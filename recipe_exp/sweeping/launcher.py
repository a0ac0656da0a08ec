"""Hydra's side of a sweep: it expands the grid, our launcher runs the trials."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from recipe_exp.config.compose import compose_command
from recipe_exp.config.compose_sources import register
from recipe_exp.config.launchers import (
    LAUNCHERS,
    ProcessSlots,
    RayTasks,
    SubmititLocalJobs,
    SubmititSlurmJobs,
    find_wrong_settings,
)
from recipe_exp.config.option_files import config_dir
from recipe_exp.errors import ConfigError
from recipe_exp.sweeping.executors import Cluster
from recipe_exp.sweeping.grid import plan_trials
from recipe_exp.sweeping.meaning import sweep_of_grid, sweep_of_search
from recipe_exp.sweeping.space import space_of
from recipe_exp.sweeping.sweep import Sweep, run_trials


def run_sweep(arguments: list[str]) -> int:
    """Runs a sweep, or answers a flag of Hydra's own such as `--hydra-help`, and returns the exit code.

    Args:
        arguments: the command line, without the program's name.

    Raises:
        ConfigError: with the mistakes of all trials; nothing has been started or made.
        SweepError: if a trial did not finish.
    """
    register()
    for plugin in (LedgerSweeper, TrialLauncher):
        # Hydra makes plugins of the package `hydra_plugins` only, which it would import with every command.
        Plugins.instance().class_name_to_class[f"hydra_plugins.recipe_exp.{plugin.__name__}"] = plugin
    command = hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")(_refuse)
    with _command_line(arguments):
        try:
            command()
        except (HydraException, OmegaConfBaseException) as error:
            # Hydra stops at the first thing that it cannot compose; composing again finds all of them.
            compose_command(get_args_parser().parse_args(arguments).overrides, is_sweep=True, check_files=True)
            raise ConfigError([" ".join(str(error).split())]) from None
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


class LedgerSweeper(Sweeper):
    """Expands a grid by the rules of Hydra's own sweeper (lists, `choice`, `range`, `glob`), and whole.

    It does not validate the trials as Hydra's does, which stops at the first mistake: all of them are found. What the
    ledger of the sweep has a result of is not run again.

    Args:
        params: values of keys (`hydra.sweeper.params`), which those of the command line replace.
    """

    def __init__(self, params: Mapping[str, str] | None) -> None:
        self._params = params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Makes the launcher.

        Raises:
            ConfigError: if the configuration chooses another one than ours.
        """
        self.hydra_context = hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        if not isinstance(self.launcher, TrialLauncher):
            _refuse(config)

    def sweep(self, arguments: list[str]) -> None:
        """Runs what the sweep lacks.

        Raises:
            ConfigError: with the mistakes of all trials.
            SweepError: if a trial has no result.
        """
        assert self.hydra_context is not None
        assert isinstance(self.launcher, TrialLauncher)
        loader: Any = _OptionsForUsers(self.hydra_context.config_loader)
        lines = [f"{key}={values}" for key, values in self._params.items()]
        overrides = OverridesParser.create(config_loader=loader).parse_overrides([*lines, *arguments])
        num_slots = self.launcher.settings.slots
        try:
            settings = compose_command([*lines, *arguments], is_sweep=True).config.sweep
        except ConfigError:
            # Those of the first trial; the others of a grid may hold more.
            if all(override.is_discrete_sweep() for override in overrides if override.is_sweep_override()):
                plan_trials(BasicSweeper.split_arguments(overrides, max_batch_size=None)[0])
            raise
        if settings.search == "grid":
            (grid,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
            self.launcher.run(sweep_of_grid(plan_trials(grid), num_slots, _command()))
        else:
            self.launcher.run(sweep_of_search(space_of(overrides), num_slots, _command()))


class TrialLauncher(Launcher):
    """Runs each trial as a process of its own, on this machine or on a cluster.

    Args:
        kind: the chosen `hydra/launcher`.
        settings: its keys.
    """

    def __init__(self, kind: str, **settings: Any) -> None:
        self._kind = kind
        self._settings = settings

    @property
    def settings(self) -> ProcessSlots:
        """The keys, checked.

        Raises:
            ConfigError: with the mistakes of their values.
        """
        mistakes = find_wrong_settings(self._kind, self._settings)
        if mistakes:
            raise ConfigError(mistakes)
        return LAUNCHERS[self._kind].model_validate(self._settings)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keeps nothing: a trial composes its configuration in its own process."""

    def run(self, sweep: Sweep) -> None:
        """Runs what a sweep lacks.

        Raises:
            ConfigError: the cluster cannot be reached from here, or its library is missing.
        """
        run_trials(replace(sweep, cluster=_cluster(self._kind, self.settings)))

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Stands for Hydra's interface, whose batches would wait for their slowest trial; `run` takes its place."""
        raise NotImplementedError


def _cluster(kind: str, settings: ProcessSlots) -> Cluster | None:
    """Returns what stands in for this machine, None for itself; the libraries are extras."""
    match settings:
        case SubmititLocalJobs():
            _need(kind, "submitit", "slurm")
            if isinstance(settings, SubmititSlurmJobs) and shutil.which("sbatch") is None:
                raise ConfigError(
                    [f"hydra/launcher={kind}: finds no sbatch; give the command on a node of the cluster"]
                )
            from recipe_exp.sweeping.submitit_jobs import SubmititCluster

            return SubmititCluster(settings)
        case RayTasks():
            _need(kind, "ray", "ray")
            from recipe_exp.sweeping.ray_tasks import RayCluster

            return RayCluster(settings)
        case _:
            return None


def _need(kind: str, library: str, extra: str) -> None:
    if importlib.util.find_spec(library) is None:
        raise ConfigError([f"hydra/launcher={kind}: needs the extra `{extra}`; pip install 'recipe-exp[{extra}]'"])


def _command() -> list[str]:
    return ["python", "-m", "recipe_exp", *sys.argv[1:]]


class _OptionsForUsers:
    """A config loader whose groups list no schemas, so that `model=glob(*)` is what a user may choose."""

    def __init__(self, loader: ConfigLoader) -> None:
        self._loader = loader

    def get_group_options(self, group_name: str, results_filter: ObjectType | None = ObjectType.CONFIG) -> list[str]:
        options = self._loader.get_group_options(group_name, results_filter)
        return [name for name in options if not name.endswith("schema")]


@contextmanager
def _command_line(arguments: Sequence[str]) -> Iterator[None]:
    """Gives Hydra, which reads `sys.argv`, these arguments, and makes it raise errors instead of printing them."""
    previous_arguments, previous_setting = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [sys.argv[0], *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        sys.argv = previous_arguments
        if previous_setting is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = previous_setting


def _refuse(_config: DictConfig) -> None:
    """Stands where Hydra wants a function for one trial, which only another launcher than ours would call."""
    raise ConfigError(["hydra/launcher: only recipe_exp starts trials as processes of their own; leave it out"])
