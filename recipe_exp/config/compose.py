"""Composition: Hydra turns groups and overrides into plain data, the schema turns that into a frozen configuration."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, RangeSweep
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from pydantic import ValidationError

from recipe_exp.config import preflight
from recipe_exp.config.base import default_values
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.groups import GLOBAL_GROUPS, GROUPS, schemas
from recipe_exp.config.messages import in_one_line, show_line
from recipe_exp.config.preflight import Change, Operation
from recipe_exp.config.secrets import hide_secrets
from recipe_exp.errors import ConfigError

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
MAX_SWEPT_VALUES = 10_000
_OPERATIONS = {
    OverrideType.CHANGE: Operation.CHANGE,
    OverrideType.ADD: Operation.ADD,
    OverrideType.FORCE_ADD: Operation.ADD,
    OverrideType.DEL: Operation.DELETE,
}


@dataclass
class _Line:
    """One override: as it was typed, as it was parsed, and what is wrong with it.

    Attributes:
        text: as typed.
        change: None if the text cannot be parsed.
        values: the values, each as it would be typed; more than one in a sweep.
        is_swept: whether the values are to be tried in turn.
        mistakes: one line each.
    """

    text: str
    change: Change | None = None
    values: list[str] = field(default_factory=list)
    is_swept: bool = False
    mistakes: list[str] = field(default_factory=list)

    @property
    def chooses(self) -> bool:
        """Whether it chooses a group's option."""
        return self.change is not None and self.change.key in GROUPS

    @property
    def sets_hydra(self) -> bool:
        """Whether it is for Hydra."""
        return self.change is not None and self.change.key in preflight.HYDRA_KEYS


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
    for group, name, section in schemas():
        store.store(group=group, name=name, node=default_values(section))
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
        options = _group_options()
        lines = [_read(text, options) for text in overrides]
        composed = _compose_groups(lines)
        is_sweep = is_sweep or composed.hydra.mode is RunMode.MULTIRUN
        if not is_sweep:
            _refuse_several_values(lines, "several values need a sweep; add --multirun")
        return Composition(_finish(composed, lines, options, check_files=check_files), is_sweep)


def override(config: ExperimentConfig, overrides: Sequence[str]) -> ExperimentConfig:
    """Returns `config` changed by overrides: values one by one, a chosen group option as a whole.

    Raises:
        ConfigError: with every mistake, one line each.
    """
    with _hydra():
        options = _group_options()
        lines = [_read(text, options) for text in overrides]
        _refuse_several_values(lines, "a configuration has one value; only a sweep tries several")
        for line in lines:
            if line.change and line.change.key in GLOBAL_GROUPS:
                line.mistakes.append(f"{show_line(line.text)}: choose it when composing; it would change many sections")
        data = config.model_dump(mode="json")
        chosen = [line.change.key for line in lines if line.change and line.chooses and not line.mistakes]
        if chosen:
            fresh, _ = _resolve(_compose_groups(lines))
            for group in chosen:
                _copy_section(fresh, data, group.split("/"))
        return _finish(OmegaConf.create(_escaped(data)), lines, options, check_files=False)


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


def _refuse_several_values(lines: Sequence[_Line], remedy: str) -> None:
    for line in lines:
        if line.is_swept and not line.mistakes:
            line.mistakes.append(f"{show_line(line.text)}: {remedy}")


def _read(text: str, options: dict[str, list[str]]) -> _Line:
    """Parses an override and finds what is wrong with it by itself; its key is looked at later, among all the others.

    Hydra's parser lets errors of other kinds than its own through, such as those of Python's numbers and files.
    """
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    line = _Line(text)
    try:
        text.encode()
        (item,) = parser.parse_overrides([text])
        line.is_swept = item.is_sweep_override()
        line.values, mistake = _values(item)
        change = None if mistake else _change(item, line.values, parser)
    except Exception:
        mistake, change = "not an override; write key=value, and quote values with spaces or commas", None
    if change is None:
        line.mistakes.append(f"{show_line(text)}: {mistake}")
    elif not change.key:
        line.mistakes.append(f"{show_line(text)}: an override begins with a key")
    else:
        line.change = change
        line.mistakes += _check_place(item, change)
        if not line.mistakes and line.chooses:
            line.mistakes += preflight.find_unknown_option(
                change, line.values, options[change.key], can_be_null=change.key in GLOBAL_GROUPS
            )
    return line


def _values(item: Override) -> tuple[list[str], str]:
    """Returns the values of an override as they would be typed, and what is wrong with a sweep's."""
    if item.is_delete():
        return [], ""
    if not item.is_sweep_override():
        return [item.get_value_element_as_str()], ""
    if not item.is_discrete_sweep():
        return [], "an interval has no list of values; write choice(...) or range(...)"
    sweep: Any = item.value()
    # Counted before it is expanded: a shuffled range would be built whole.
    if isinstance(sweep, RangeSweep) and not _length(sweep) < MAX_SWEPT_VALUES:
        return [], f"more than {MAX_SWEPT_VALUES:,} values; each would be a trial"
    values = list(islice(item.sweep_string_iterator(), MAX_SWEPT_VALUES))
    if item.key_or_group in GROUPS:
        values = [value for value in values if not value.endswith("schema")]
    return values, "" if values else "there is no such value; a sweep needs one or more"


def _length(sweep: RangeSweep) -> float:
    """Returns about how many values a range has; NaN if that is one of its bounds."""
    start, stop, step = (Decimal(str(number)) for number in (sweep.start, sweep.stop, sweep.step))
    return float((stop - start) / step)


def _change(item: Override, values: Sequence[str], parser: OverridesParser) -> Change:
    if item.is_sweep_override():
        value = parser.parse_override(f"{item.key_or_group}={values[0]}").value()
    else:
        value = item.value()
    assert item.type is not None
    return Change(item.input_line or "", item.key_or_group, _OPERATIONS[item.type], value)


def _check_place(item: Override, change: Change) -> list[str]:
    """Returns the mistakes of an override that has no place in a configuration, whatever the keys."""
    if item.package is not None:
        return [f"{show_line(change.line)}: every group and key has one place; write {change.key}=..."]
    return preflight.find_impossible(change)


def _compose_groups(lines: Sequence[_Line]) -> DictConfig:
    """Composes what the rightly chosen groups and the files say, without any override of a value.

    Raises:
        ConfigError: if a file cannot be composed, together with the mistakes of the lines.
    """
    chosen = {
        line.change.key: line.values[0]
        for line in lines
        if line.change and not line.mistakes and (line.chooses or line.sets_hydra)
    }
    typed = [f"~{group}" if option == "null" else f"{group}={option}" for group, option in chosen.items()]
    try:
        composed = hydra_compose("config", overrides=typed, return_hydra_config=True)
    except Exception as error:  # Hydra lets the errors of YAML and of the file system through.
        broken = f"the configuration's files cannot be composed: {_message(error)}"
        raise ConfigError([*(mistake for line in lines for mistake in line.mistakes), broken]) from None
    OmegaConf.set_struct(composed, False)
    return composed


def _finish(
    composed: DictConfig, lines: Sequence[_Line], options: dict[str, list[str]], *, check_files: bool
) -> ExperimentConfig:
    """Lays the values of the lines over what was composed, and validates.

    Raises:
        ConfigError: with every mistake of the lines, the values, the sections and the files.
    """
    base, _ = _resolve(composed)
    are_groups_known = not any(line.mistakes for line in lines if line.chooses)
    for line in lines:
        if line.change and not (line.mistakes or line.chooses or line.sets_hydra):
            if not are_groups_known and preflight.is_of_other_option(line.change.key, base):
                continue
            line.mistakes += preflight.find_unknown_key(line.change, base, options)
            if not line.mistakes:
                line.mistakes += _set(composed, line.change)
    data, unresolved = _resolve(composed)
    _leave_out_path_of_this_machine(data, lines)
    mistakes = [mistake for line in lines for mistake in line.mistakes]
    for key, mistake in unresolved.items():
        mistakes += preflight.find_unknown_key(Change(key, key), data, options) or [mistake]
    try:
        config = ExperimentConfig.model_validate(data)
    except ValidationError:
        mistakes += preflight.find_invalid_values(data, base, options, with_contradictions=are_groups_known)
    mistakes += preflight.find_missing_files(data) if check_files else []
    if mistakes:
        raise ConfigError(mistakes)
    return config


def _leave_out_path_of_this_machine(data: dict[str, Any], lines: Sequence[_Line]) -> None:
    """`local/` names where this machine's recipes are; generated ones have no path, so it only counts for others."""
    section = data.get("data")
    is_typed = any(line.change and line.change.key == "data.path" for line in lines)
    if isinstance(section, dict) and section.get("format") == "sample" and not is_typed:
        section["path"] = None


def _set(composed: DictConfig, change: Change) -> list[str]:
    try:
        OmegaConf.update(composed, change.key, change.value, merge=False)
    except Exception as error:  # A value that OmegaConf cannot hold, such as half an interpolation.
        return [f"{show_line(change.line)}: cannot be read: {_message(error)}"]
    return []


def _resolve(node: DictConfig, prefix: str = "") -> tuple[dict[str, Any], dict[str, str]]:
    """Returns plain data without Hydra's own and without missing values, and what is wrong with interpolations."""
    data: dict[str, Any] = {}
    mistakes: dict[str, str] = {}
    for name in map(str, node):
        key = f"{prefix}{name}"
        if key == "hydra":
            continue
        try:
            is_interpolation = OmegaConf.is_interpolation(node, name)
            if not is_interpolation and OmegaConf.is_missing(node, name):
                continue
            value = node[name]
            if isinstance(value, DictConfig) and not is_interpolation:
                data[name], inner = _resolve(value, f"{key}.")
                mistakes |= inner
            else:
                data[name] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        except Exception as error:  # Whatever a resolver raises.
            mistakes[key] = f"{in_one_line(key)}: its interpolation cannot be resolved: {_message(error)}"
    return data, mistakes


def _escaped(value: Any) -> Any:
    """Returns plain data in which a text that looks like an interpolation stays a text."""
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value


def _copy_section(source: dict[str, Any], target: dict[str, Any], path: Sequence[str]) -> None:
    for part in path[:-1]:
        source, target = source[part], target[part]
    target[path[-1]] = source[path[-1]]


def _message(error: Exception) -> str:
    """Returns what an error of Hydra, OmegaConf or YAML says, in one line and without its search path."""
    text = str(error).partition("Config search path")[0].partition("\n    full_key")[0]
    return in_one_line(" ".join(hide_secrets(text).split()) or type(error).__name__, 300)
