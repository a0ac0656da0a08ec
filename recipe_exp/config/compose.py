"""Composition: Hydra turns groups and overrides into plain data, the schema turns that into a frozen configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra import compose as hydra_compose
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from pydantic import ValidationError

from recipe_exp.config import interpolation, preflight
from recipe_exp.config.compose_overrides import Line, read_override, read_overrides, trials_of
from recipe_exp.config.compose_sources import OptionFiles, hydra_initialized, options_of_groups
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.groups import GLOBAL_GROUPS, SECTIONS
from recipe_exp.config.messages import in_one_line, show_line, show_path
from recipe_exp.config.option_files import OptionFile, name_files
from recipe_exp.config.preflight import Change
from recipe_exp.errors import ConfigError
from recipe_exp.secrets import redact


@dataclass(frozen=True)
class Composition:
    """What a command line means.

    Attributes:
        outcome: the configuration, of a sweep that of its first trial or what is wrong with it.
        trials: overrides of a sweep's trials, at most `MAX_LISTED_TRIALS` of them; empty if it is no sweep.
    """

    outcome: ExperimentConfig | ConfigError
    trials: tuple[tuple[str, ...], ...] = ()

    @property
    def is_sweep(self) -> bool:
        """Whether several configurations are meant."""
        return bool(self.trials)

    @property
    def config(self) -> ExperimentConfig:
        """The configuration.

        Raises:
            ConfigError: with the mistakes of a sweep's first trial.
        """
        if isinstance(self.outcome, ConfigError):
            raise self.outcome
        return self.outcome


def check_overrides(overrides: Sequence[str]) -> None:
    """Refuses overrides that Hydra itself must not see, since they cannot be read or set what is fixed.

    Raises:
        ConfigError: with every mistake that is known before a sweep's trials are looked at.
    """
    with hydra_initialized():
        lines = read_overrides(overrides, options_of_groups())
    if any(line.mistakes for line in lines if not line.chooses):
        compose_command(overrides, is_sweep=True, check_files=True)


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
    composition = read_command(overrides, is_sweep=is_sweep, check_files=check_files)
    assert composition.config is not None
    return composition


def read_command(overrides: Sequence[str], *, is_sweep: bool = False, check_files: bool = False) -> Composition:
    """Composes like `compose_command`, but a sweep whose first trial is wrong is still known to be one.

    Raises:
        ConfigError: with every mistake, one line each; those of a sweep's values are raised by `Composition.config`.
    """
    with hydra_initialized():
        options = options_of_groups()
        lines = read_overrides(overrides, options)
        composed = _compose_groups(lines)
        is_sweep = is_sweep or composed.hydra.mode is RunMode.MULTIRUN
        if not is_sweep:
            _refuse_several_values(lines, "several values need a sweep; add --multirun")
            _refuse_settings_of_sweeps(lines)
            return Composition(_finish(composed, lines, options, check_files=check_files))
        lines, composed = _with_params(lines, composed, options)
        if any(line.mistakes for line in lines if line.file):
            raise ConfigError([mistake for line in lines for mistake in line.explained])
        trials = tuple(trials_of(lines))
        _refuse_intervals_in_grid(lines, composed)
        try:
            return Composition(_finish(composed, lines, options, check_files=check_files), trials)
        except ConfigError as error:
            return Composition(error, trials)


def override(config: ExperimentConfig, overrides: Sequence[str]) -> ExperimentConfig:
    """Returns `config` changed by overrides: values one by one, a chosen group option as a whole.

    Raises:
        ConfigError: with every mistake, one line each.
    """
    with hydra_initialized():
        options = options_of_groups()
        lines = read_overrides(overrides, options)
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
        changed = _finish(OmegaConf.create(_escaped(data)), lines, options, check_files=False)
        return changed.with_typed_keys(config.typed_keys)


def group_options() -> dict[str, list[str]]:
    """Returns every group with its options, as a user may name them."""
    with hydra_initialized():
        return options_of_groups()


def _refuse_several_values(lines: Sequence[Line], remedy: str) -> None:
    for line in lines:
        if line.is_swept and not line.mistakes:
            line.mistakes.append(f"{show_line(line.text)}: {remedy}")


def _refuse_settings_of_sweeps(lines: Sequence[Line]) -> None:
    for line in lines:
        if line.change and line.change.key.startswith("sweep.") and not line.mistakes:
            line.mistakes.append(f"{show_line(line.text)}: says how a sweep goes, and this is none; add --multirun")


def _refuse_intervals_in_grid(lines: Sequence[Line], composed: DictConfig) -> None:
    typed = [line.change.value for line in lines if line.change and line.change.key == "sweep.search"]
    if [composed.sweep.search, *typed][-1] != "grid":
        return
    for line in lines:
        if line.is_interval and not line.mistakes:
            line.mistakes.append(
                f"{show_line(line.text)}: a grid needs a list of values; write choice(...) or range(...), or add "
                "sweep.search=random or tpe"
            )


def _with_params(
    lines: list[Line], composed: DictConfig, options: dict[str, list[str]]
) -> tuple[list[Line], DictConfig]:
    """Returns the lines with those of a ready sweep, which the typed ones replace, and what they compose to."""
    typed = {line.change.key for line in lines if line.change}
    params = dict(composed.hydra.sweeper.params or {}).items()
    added = [read_override(f"{key}={values}", options) for key, values in params if key not in typed]
    for line in added:
        line.file = next(file.path for file in reversed(OptionFiles.read) if _has_params(file))
    if any(line.chooses for line in added):
        composed = _compose_groups([*lines, *added])
    return [*lines, *added], composed


def _has_params(file: OptionFile) -> bool:
    return file.value_of("hydra.sweeper.params") is not ...


def _compose_groups(lines: Sequence[Line]) -> DictConfig:
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
    except ConfigError as error:
        raise ConfigError([*(mistake for line in lines for mistake in line.explained), *error.mistakes]) from None
    except RecursionError:
        names = dict.fromkeys(show_path(file.path) for file in OptionFiles.read[-8:])
        raise ConfigError([f"{', '.join(names)}: the defaults of these files name each other without an end"]) from None
    except Exception as error:  # Hydra lets the errors of the file system through.
        broken = f"the configuration's files cannot be composed: {_message(error)}"
        raise ConfigError([*(mistake for line in lines for mistake in line.explained), broken]) from None
    OmegaConf.set_struct(composed, False)
    return composed


def _finish(
    composed: DictConfig, lines: Sequence[Line], options: dict[str, list[str]], *, check_files: bool
) -> ExperimentConfig:
    """Lays the values of the lines over what was composed, and validates.

    Raises:
        ConfigError: with every mistake of the lines, the values, the sections and the files.
    """
    unbounded = interpolation.find_unbounded(_unresolved(composed), [line.text for line in lines])
    if unbounded:
        raise ConfigError(unbounded)
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
    mistakes = [mistake for line in lines for mistake in line.explained]
    found = []
    for key, mistake in unresolved.items():
        found += preflight.find_unknown_key(Change(key, key), data, options) or [mistake]
    try:
        config = ExperimentConfig.model_validate(data)
    except ValidationError:
        found += preflight.find_invalid_values(data, base, options, with_contradictions=are_groups_known)
    if check_files:
        known = {line.partition(":")[0] for line in found}
        found += [line for line in preflight.find_missing_files(data) if line.partition(":")[0] not in known]
    typed = [line.change.key for line in lines if line.change]
    if mistakes or found:
        raise ConfigError([*mistakes, *name_files(found, data, OptionFiles.read, typed)])
    # A chosen section is a bundle of which only what is unusual was meant; an option of a union is meant as a whole.
    return config.with_typed_keys(key.replace("/", ".") for key in typed if key not in (*SECTIONS, *GLOBAL_GROUPS))


def _unresolved(composed: DictConfig) -> dict[Any, Any]:
    data = OmegaConf.to_container(composed)
    assert isinstance(data, dict)
    return {key: value for key, value in data.items() if key != "hydra"}


def _leave_out_path_of_this_machine(data: dict[str, Any], lines: Sequence[Line]) -> None:
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
    for entry in list[Any](node):
        # A key that YAML reads as a number is text where texts are keys.
        name = str(entry)
        key = f"{prefix}{name}"
        if key == "hydra":
            continue
        try:
            is_interpolation = OmegaConf.is_interpolation(node, entry)
            if not is_interpolation and OmegaConf.is_missing(node, entry):
                continue
            value = node[entry]
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
    text, _, place = str(error).partition("Config search path")[0].partition("\n    full_key:")
    key = place.partition("\n")[0].strip()
    for file in OptionFiles.read:
        text = text.replace(f"In '{file.name}':", f"{show_path(file.path)}:")
    return in_one_line((" ".join(redact(text).split()) or type(error).__name__) + (f" at {key}" if key else ""), 400)
