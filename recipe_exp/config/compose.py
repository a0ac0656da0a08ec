"""Composition: Hydra turns groups and overrides into plain data, the schema turns that into a frozen configuration."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from recipe_exp.config import preflight
from recipe_exp.config.base import Section, default_values
from recipe_exp.config.data import DataConfig
from recipe_exp.config.evaluation import EvaluationConfig
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.hardware import HardwareConfig
from recipe_exp.config.messages import mistakes_of
from recipe_exp.config.model import ModelConfig
from recipe_exp.config.preflight import Change, Operation
from recipe_exp.config.task import TaskConfig
from recipe_exp.config.tracking import TrackingConfig
from recipe_exp.config.training import AdapterConfig, OptimizerConfig, ScheduleConfig, TrainingConfig
from recipe_exp.errors import ConfigError

SECTIONS: dict[str, type[Section]] = {
    "model": ModelConfig,
    "data": DataConfig,
    "training": TrainingConfig,
    "hardware": HardwareConfig,
    "evaluation": EvaluationConfig,
    "tracking": TrackingConfig,
}
UNIONS: dict[str, Any] = {
    "task": TaskConfig,
    "training/optimizer": OptimizerConfig,
    "training/schedule": ScheduleConfig,
    "training/adapter": AdapterConfig,
}
GLOBAL_GROUPS = ("experiment", "sweeps", "debug", "local")
GROUPS = (*SECTIONS, *UNIONS, *GLOBAL_GROUPS)
HYDRA_SETTINGS = {
    "output_subdir": None,
    "run": {"dir": "."},
    "sweep": {"dir": ".", "subdir": "."},
    "job": {"name": "recipe_exp", "chdir": False},
}
# The classes are in `sweeping/`; they are named here because `hydra.launcher.slots=2` is part of a command line.
SWEEP_PLUGINS: dict[str, dict[str, Any]] = {
    "launcher": {"_target_": "hydra_plugins.recipe_exp.ProcessLauncher", "slots": 1},
    "sweeper": {"_target_": "hydra_plugins.recipe_exp.GridSweeper", "params": None},
}
_OPERATIONS = {
    OverrideType.CHANGE: Operation.CHANGE,
    OverrideType.ADD: Operation.ADD,
    OverrideType.FORCE_ADD: Operation.ADD,
    OverrideType.DEL: Operation.DELETE,
}


@dataclass(frozen=True)
class Composition:
    """What a command line means: the configuration, and whether it is a sweep over several of them."""

    config: ExperimentConfig
    is_sweep: bool


def config_dir() -> Path:
    """Returns the folder of Hydra's groups: in the wheel beside the code, in a checkout beside the package."""
    package = Path(__file__).resolve().parent.parent
    packaged = package / "_config" / "conf"
    return packaged if packaged.is_dir() else package.parent / "conf"


def user_config_dir() -> Path:
    """Returns the folder in which a user may add options to any group, such as `local/default.yaml`."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(os.environ.get("RECIPE_EXP_CONFIG_DIR") or Path(base) / "recipe_exp")


class RecipeExpSearchPath(SearchPathPlugin):
    """Makes `sweeps/` and the user's config folder part of every composition."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="recipe_exp", path=str(config_dir().parent))
        if user_config_dir().is_dir():
            search_path.prepend(provider="user", path=str(user_config_dir()))


@cache
def register() -> None:
    """Gives Hydra the schema's defaults, the search path and the resolvers; once a process."""
    store = ConfigStore.instance()
    store.store(name="schema", node=default_values(ExperimentConfig) | {"hydra": HYDRA_SETTINGS})
    for group, section in SECTIONS.items():
        store.store(group=group, name="schema", node=default_values(section))
    for group, union in UNIONS.items():
        for option in get_args(get_args(union)[0]):
            values = default_values(option)
            store.store(group=group, name=f"{values['kind']}_schema", node=values)
    for kind, plugin in SWEEP_PLUGINS.items():
        store.store(group=f"hydra/{kind}", name="recipe_exp", node=plugin)
    Plugins.instance().register(RecipeExpSearchPath)
    OmegaConf.register_new_resolver("mul", lambda left, right: left * right, replace=True)


def compose(overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Returns the validated configuration that a command line with these overrides would run.

    Raises:
        ConfigError: with every mistake of all overrides and files, one line each.
    """
    return compose_command(overrides).config


def compose_command(overrides: Sequence[str], *, is_sweep: bool = False, check_files: bool = False) -> Composition:
    """Composes like `compose`; of a swept key the first value stands for all.

    Args:
        overrides: in the grammar of Hydra's command line.
        is_sweep: whether several values of a key are allowed.
        check_files: whether files that the configuration names must exist on this machine.

    Raises:
        ConfigError: with every mistake of all overrides and files, one line each.
    """
    with _hydra():
        parsed = _parse(overrides)
        lines = [_first_value(item) for item in parsed]
        try:
            composed = _compose_lines(lines)
            data = _plain(composed)
            config = ExperimentConfig.model_validate(data)
        except (HydraException, OmegaConfBaseException, ValidationError) as error:
            raise ConfigError(_diagnose(parsed, lines, error, check_files=check_files)) from None
        sweeps = is_sweep or (composed.hydra.mode is not None and composed.hydra.mode.name == "MULTIRUN")
        mistakes = _check_changes(parsed, lines, data, _group_options()) + (
            preflight.find_missing_files(data) if check_files else []
        )
        if not sweeps:
            swept = [item.input_line for item in parsed if item.is_sweep_override()]
            mistakes += [f"{line}: several values need a sweep; add --multirun" for line in swept]
        if mistakes:
            raise ConfigError(mistakes)
        return Composition(config, sweeps)


def override(config: ExperimentConfig, overrides: Sequence[str]) -> ExperimentConfig:
    """Returns `config` changed by overrides: values one by one, a chosen group option as a whole.

    Raises:
        ConfigError: with every mistake, one line each.
    """
    with _hydra():
        parsed = _parse(overrides)
        chosen = [item for item in parsed if item.key_or_group in GROUPS]
        data = config.model_dump(mode="json")
        if chosen:
            fresh = _plain(_compose_lines([item.input_line or "" for item in chosen]))
            for item in chosen:
                _copy_section(fresh, data, item.key_or_group.split("/"))
        base = OmegaConf.create(data)
        OmegaConf.set_struct(base, True)
        mistakes = preflight.find_unknown_keys(
            [_change(item) for item in parsed if item not in chosen], data, _group_options()
        )
        if mistakes:
            raise ConfigError(mistakes)
        for item in parsed:
            if item not in chosen:
                OmegaConf.update(base, item.key_or_group, item.value())
        return ExperimentConfig.from_data(_plain(base))


def group_options() -> dict[str, list[str]]:
    """Returns every group with its options, as a user may name them."""
    with _hydra():
        return _group_options()


@contextmanager
def _hydra() -> Iterator[None]:
    """Initializes Hydra for one composition, whoever else in this process has initialized it before."""
    register()
    previous = GlobalHydra.instance().hydra
    GlobalHydra.instance().hydra = None
    try:
        with initialize_config_dir(config_dir=str(config_dir()), version_base="1.3", job_name="recipe_exp"):
            yield
    finally:
        GlobalHydra.instance().hydra = previous


def _group_options() -> dict[str, list[str]]:
    sources = GlobalHydra.instance().config_loader().get_sources()
    return {group: sorted(_options_in(group, sources)) for group in GROUPS}


def _options_in(group: str, sources: Sequence[ConfigSource]) -> set[str]:
    """Asks the sources themselves: Hydra's loader would copy every file that it has read, for each group."""
    names = {name for source in sources if source.is_group(group) for name in source.list(group, ObjectType.CONFIG)}
    return {name for name in names if not name.endswith("schema")}


def _parse(overrides: Sequence[str]) -> list[Override]:
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    parsed, mistakes = [], []
    for line in overrides:
        try:
            parsed += parser.parse_overrides([line])
        except HydraException:
            mistakes.append(f"{line}: not an override; write key=value, and quote values with spaces or commas")
        else:
            mistakes += _find_endless_sweep(parsed[-1])
    if mistakes:
        raise ConfigError(mistakes)
    return parsed


def _find_endless_sweep(item: Override) -> list[str]:
    """Returns the mistake of sweeping over what has no list of values."""
    if item.is_sweep_override():
        if not item.is_discrete_sweep():
            return [f"{item.input_line}: an interval has no list of values; write choice(...) or range(...)"]
        if next(item.sweep_string_iterator(), None) is None:
            return [f"{item.input_line}: there is no such value; a sweep needs one or more"]
    return []


def _first_value(item: Override) -> str:
    if not item.is_sweep_override():
        return item.input_line or ""
    return f"{item.get_key_element()}={next(iter(item.sweep_string_iterator()))}"


def _compose_lines(lines: Sequence[str]) -> DictConfig:
    return hydra_compose("config", overrides=list(lines), return_hydra_config=True)


def _plain(composed: DictConfig) -> dict[str, Any]:
    with_hydra = {key: composed._get_node(key) for key in composed if key != "hydra"}
    config = OmegaConf.create(with_hydra)
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in _without_missing(plain).items()}


def _without_missing(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_missing(item) for key, item in value.items() if item != "???"}
    return value


def _change(item: Override) -> Change:
    value = item.value() if not item.is_sweep_override() else None
    assert item.type is not None
    return Change(
        line=item.input_line or "",
        key=item.key_or_group,
        operation=_OPERATIONS.get(item.type, Operation.CHANGE),
        value=value,
    )


def _check_changes(
    parsed: Sequence[Override], lines: Sequence[str], base: dict[str, Any], options: dict[str, list[str]]
) -> list[str]:
    """Returns the mistakes in which groups, options and keys were named, in the order in which they were typed."""
    mistakes: list[str] = []
    for item, line in zip(parsed, lines, strict=True):
        if item.is_hydra_override():
            continue
        if item.key_or_group in options:
            chosen = line.partition("=")[2]
            mistakes += preflight.find_unknown_option(_change(item), chosen, options[item.key_or_group])
        else:
            mistakes += preflight.find_unknown_keys([_change(item)], base, options)
    return mistakes


def _diagnose(parsed: Sequence[Override], lines: Sequence[str], error: Exception, *, check_files: bool) -> list[str]:
    """Collects every mistake: unknown groups, options and keys first, then values, contradictions and files."""
    options = _group_options()
    pairs = list(zip(parsed, lines, strict=True))
    groups = [(item, line) for item, line in pairs if item.key_or_group in GROUPS and not item.is_hydra_override()]
    good_groups = [line for item, line in groups if not _check_changes([item], [line], {}, options)]
    try:
        base = _plain(_compose_lines(good_groups))
        mistakes = _check_changes(parsed, lines, base, options)
        values = [(item, line) for item, line in pairs if (item, line) not in groups and not item.is_hydra_override()]
        good_values = [line for item, line in values if not _check_changes([item], [line], base, options)]
        data = _plain(_compose_lines([*good_groups, *good_values]))
    except (HydraException, OmegaConfBaseException) as broken:
        return [
            *_check_changes([item for item, _ in groups], [line for _, line in groups], {}, options),
            _one_line(broken),
        ]
    mistakes += preflight.find_invalid_values(data, base)
    mistakes += preflight.find_missing_files(data) if check_files else []
    if mistakes:
        return mistakes
    return mistakes_of(error) if isinstance(error, ValidationError) else [_one_line(error)]


def _copy_section(source: dict[str, Any], target: dict[str, Any], path: Sequence[str]) -> None:
    if path[0] in GLOBAL_GROUPS:
        raise ConfigError([f"{path[0]}: choose it when composing; it cannot be laid over a finished configuration"])
    for part in path[:-1]:
        source, target = source[part], target[part]
    target[path[-1]] = source[path[-1]]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
