"""Where Hydra finds what it composes: the schema's defaults, the files of the options, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import ClassVar

from hydra import initialize_config_dir
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf
from omegaconf._utils import get_yaml_loader

from recipe_exp.config import interpolation
from recipe_exp.config.base import default_values
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.groups import GROUPS, schemas
from recipe_exp.config.launchers import LAUNCHERS
from recipe_exp.config.messages import show_path
from recipe_exp.config.option_files import OptionFile, config_dir, find_option, read_option, user_config_dir
from recipe_exp.errors import ConfigError

HYDRA_SETTINGS = {
    "output_subdir": None,
    "run": {"dir": "."},
    "sweep": {"dir": ".", "subdir": "."},
    "job": {"name": "recipe_exp", "chdir": False},
}
# The classes are in `sweeping/`; they are named here because `hydra.launcher.slots=2` is part of a command line.
_PLUGINS = "hydra_plugins.recipe_exp"
_SWEEPER = {"_target_": f"{_PLUGINS}.LedgerSweeper", "params": None}


class OptionFiles(FileConfigSource):
    """A folder of groups, whose files are read as `option_files` allows."""

    read: ClassVar[list[OptionFile]] = []
    """What was read since Hydra was initialized last."""

    @staticmethod
    def scheme() -> str:
        return "recipe_exp"

    def load_config(self, config_path: str) -> ConfigResult:
        path = find_option(Path(self.path), config_path)
        assert path is not None
        option, package = read_option(path, config_path, get_yaml_loader())
        self.read.append(option)
        config = OmegaConf.create(option.data)
        return ConfigResult(self.provider, self.full_path(), config, {"package": package})

    def is_config(self, config_path: str) -> bool:
        return find_option(Path(self.path), config_path) is not None

    def is_group(self, config_path: str) -> bool:
        return not config_path.startswith("hydra") and super().is_group(config_path)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        try:
            names: list[str] = super().list(config_path, results_filter)
        except OSError as error:
            folder = show_path(Path(self.path, config_path))
            raise ConfigError([f"{folder}: cannot be listed: {error.strerror}; change its permissions"]) from None
        return names


class RecipeExpSearchPath(SearchPathPlugin):
    """Makes `sweeps/` and the user's config folder part of every composition, and ours the source of their files."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        scheme = OptionFiles.scheme()
        for place in search_path.get_path():
            if place.path in (str(config_dir()), f"file://{config_dir()}"):
                place.path = f"{scheme}://{config_dir()}"
        search_path.append(provider="recipe_exp", path=f"{scheme}://{config_dir().parent}")
        if user_config_dir().is_dir():
            search_path.prepend(provider="user", path=f"{scheme}://{user_config_dir()}")


@cache
def register() -> None:
    """Gives Hydra the schema's defaults, the search path and the resolvers; once a process."""
    store = ConfigStore.instance()
    store.store(name="schema", node=default_values(ExperimentConfig) | {"hydra": HYDRA_SETTINGS})
    for group, name, section in schemas():
        store.store(group=group, name=name, node=default_values(section))
    # Packages of Hydra's own authors name their launchers like these; Hydra loads them with its first plugin.
    Plugins.instance().register(RecipeExpSearchPath)
    store.store(group="hydra/sweeper", name="recipe_exp", node=_SWEEPER)
    for name, section in LAUNCHERS.items():
        launcher = {"_target_": f"{_PLUGINS}.TrialLauncher", "kind": name, **default_values(section)}
        store.store(group="hydra/launcher", name=name, node=launcher)
    SourcesRegistry.instance().register(OptionFiles)
    OmegaConf.register_new_resolver("mul", interpolation.multiply, replace=True)


@contextmanager
def hydra_initialized() -> Iterator[None]:
    """Initializes Hydra for one composition, whoever else in this process has initialized it before."""
    register()
    previous = GlobalHydra.instance().hydra
    GlobalHydra.instance().hydra = None
    OptionFiles.read.clear()
    try:
        with initialize_config_dir(config_dir=str(config_dir()), version_base="1.3", job_name="recipe_exp"):
            yield
    finally:
        GlobalHydra.instance().hydra = previous


def options_of_groups() -> dict[str, list[str]]:
    """Returns every group with its options; only where Hydra is initialized."""
    sources = GlobalHydra.instance().config_loader().get_sources()
    return {group: sorted(_options_in(group, sources)) for group in GROUPS}


def _options_in(group: str, sources: Sequence[ConfigSource]) -> set[str]:
    """Asks the sources themselves: Hydra's loader would copy every file that it has read, for each group."""
    names = {name for source in sources if source.is_group(group) for name in source.list(group, ObjectType.CONFIG)}
    return {name for name in names if not name.endswith("schema")}
