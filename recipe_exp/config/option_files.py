"""The YAML files of the groups' options: where they are, what they may hold, and which of them a value comes from."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from recipe_exp.config import yaml_file
from recipe_exp.config.groups import GLOBAL_GROUPS, SECTIONS
from recipe_exp.config.messages import in_one_line, show_path, show_setting, show_value
from recipe_exp.errors import ConfigError

_HEADER = re.compile(r"#\s*@package\b(.*)")
_PACKAGE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
_GLOBAL = "_global_"
_NAMES_HYDRA = re.compile(r"(?:^|[\s/@.:])hydra(?:[\s/@.:]|$)")
# What the shipped configuration chooses, for everybody.
_CHOICES_OF_HYDRA = ("override hydra/launcher: recipe_exp", "override hydra/sweeper: recipe_exp")
_SETTINGS_OF_HYDRA = {"mode": (), "launcher": ("slots",), "sweeper": ("params",)}
_FIXED = "Hydra's own settings are fixed, except hydra.mode, hydra.launcher.slots and hydra.sweeper.params"
_KEY = re.compile(r"[^=:\s]+")


@dataclass(frozen=True)
class OptionFile:
    """One option that took part in a composition.

    Attributes:
        path: the file.
        name: the option with its group, as Hydra names it.
        package: the section that its keys are in, dotted; empty for the whole configuration.
        data: its content.
    """

    path: Path
    name: str
    package: str
    data: dict[Any, Any]

    def value_of(self, key: str) -> Any:
        """Returns what it gives a dotted key, `...` if nothing."""
        prefix = f"{self.package}." if self.package else ""
        if not key.startswith(prefix):
            return ...
        return value_at(self.data, key.removeprefix(prefix).split("."))


def config_dir() -> Path:
    """Returns the folder of Hydra's groups: in the wheel beside the code, in a checkout beside the package."""
    package = Path(__file__).resolve().parent.parent
    packaged = package / "_config" / "conf"
    return packaged if packaged.is_dir() else package.parent / "conf"


def user_config_dir() -> Path:
    """Returns the folder in which a user may add options to any group, such as `local/default.yaml`."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(os.environ.get("RECIPE_EXP_CONFIG_DIR") or Path(base) / "recipe_exp")


def find_option(root: Path, name: str) -> Path | None:
    """Returns the file of an option, None if there is none; what is there and is no file is found too.

    Args:
        root: a folder of groups.
        name: the option with its group, as Hydra names it, such as `model/t5_tiny`.

    Raises:
        ConfigError: the file would stand in for the schema itself.
    """
    parts = Path(name).parts
    if not parts or ".." in parts or parts[0] in ("/", "hydra") or "\0" in name:
        return None
    path = root / (name if name.endswith(".yaml") else f"{name}.yaml")
    if not os.path.lexists(path):
        return None
    if path.stem.endswith("schema") or (name == "config" and root != config_dir()):
        raise ConfigError(
            [f"{show_path(path)}: would replace what every configuration begins with; give the file another name"]
        )
    return path


def read_option(path: Path, name: str, loader: type[yaml.SafeLoader]) -> tuple[OptionFile, str | None]:
    """Returns an option and what its header says of its package, None without one.

    Args:
        path: the file.
        name: the option with its group.
        loader: says how plain scalars become numbers and texts.

    Raises:
        ConfigError: with each mistake; it cannot be read, or would change Hydra itself.
    """
    text = yaml_file.read_text(path)
    data = yaml_file.parse(text, path, loader)
    group = str(Path(name).parent)
    package = _package(text)
    if package is None and not data and group in GLOBAL_GROUPS:
        package = _GLOBAL
    mistakes = _header_mistakes(package, group) + _settings_of_hydra(data, package or "") + _wrong_defaults(data)
    mistakes += _flat_sections(data) if package == _GLOBAL else []
    if mistakes:
        raise ConfigError([f"{show_path(path)}: {mistake}" for mistake in mistakes])
    place = group.replace("/", ".") if package is None else package
    return OptionFile(path, name, "" if place in (_GLOBAL, ".") else place.removeprefix(f"{_GLOBAL}."), data), package


def value_at(data: Any, path: Sequence[str]) -> Any:
    """Returns what stands in nested mappings under a path of keys as messages show them, `...` if nothing does."""
    for part in path:
        if not isinstance(data, dict):
            return ...
        data = next((value for key, value in data.items() if in_one_line(str(key)) == part), ...)
    return data


def name_files(
    mistakes: Iterable[str], data: dict[str, Any], files: Sequence[OptionFile], typed: Iterable[str]
) -> list[str]:
    """Returns each mistake with the file that it was made in before it.

    Args:
        mistakes: lines that begin with a key.
        data: what was composed, from which it is known whose value won.
        files: what took part.
        typed: the keys of the command line; a mistake in which one of them takes part is not a file's.
    """
    keys = list(typed)
    named = []
    for mistake in mistakes:
        match = _KEY.match(mistake)
        key = match[0] if match else ""
        is_typed = any(other == key or f"{other}=" in mistake for other in keys)
        file = None if is_typed else _giver(key, repr(value_at(data, key.split("."))), files)
        named.append(f"{show_path(file.path)}: {mistake}" if file else mistake)
    return named


def _giver(key: str, value: str, files: Sequence[OptionFile]) -> OptionFile | None:
    """Returns the file that a key has its value from."""
    # A key that holds dots itself is a mistake of its own.
    givers = [file for file in files if "." in key and key in file.data]
    givers = givers or [file for file in files if file.value_of(key) is not ...]
    winners = [file for file in givers if repr(file.value_of(key)) == value] or givers
    return winners[-1] if winners else None


def _package(text: str) -> str | None:
    """Returns what the comments at a file's beginning say of its package."""
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            return None
        match = _HEADER.match(line.strip())
        if match:
            return match[1].strip()
    return None


def _header_mistakes(package: str | None, group: str) -> list[str]:
    if package is not None and _PACKAGE.fullmatch(package) is None:
        return ["its header `# @package` names no section; write `# @package _global_`"]
    if package is None and group in GLOBAL_GROUPS:
        return ["a file of this group begins with `# @package _global_`; put that line first"]
    return []


def _flat_sections(data: dict[Any, Any]) -> list[str]:
    wrong = [name for name in (*SECTIONS, "task") if name in data and not isinstance(data[name], dict)]
    return [f"{show_setting(name, data[name])}: must be a section of keys" for name in wrong]


def _wrong_defaults(data: dict[Any, Any]) -> list[str]:
    defaults = data.get("defaults", [])
    if not isinstance(defaults, list):
        return ["defaults: must be a list, such as `defaults: [schema, _self_]`"]
    for item in defaults:
        entry = {item: ""} if isinstance(item, str) else item
        if not isinstance(entry, dict) or len(entry) != 1:
            return [f"defaults: {show_value(item)}: write an option's name, or one `group: option`"]
        ((group, option),) = entry.items()
        chosen = option if isinstance(option, list) else [option or ""]
        text = f"{group}: {option}" if option else str(group)
        if not all(isinstance(name, str) for name in (group, *chosen)):
            return [f"defaults: {show_value(item)}: write an option's name, or one `group: option`"]
        if any(".." in name or name.startswith("~") for name in (group, *chosen)):
            return [f"defaults: {in_one_line(text)}: options are found by their names, not by a path"]
        if _NAMES_HYDRA.search(text) and text not in _CHOICES_OF_HYDRA:
            return [f"defaults: {in_one_line(text)}: {_FIXED}"]
    return []


def _settings_of_hydra(data: dict[Any, Any], package: str) -> list[str]:
    if _NAMES_HYDRA.search(package):
        return [f"@package {in_one_line(package)}: {_FIXED}"]
    settings = data.get("hydra", {})
    if not isinstance(settings, dict):
        return [f"hydra: {_FIXED}"]
    for name, value in settings.items():
        keys = _SETTINGS_OF_HYDRA.get(name)
        inner = list(value) if isinstance(value, dict) else []
        wrong = [key for key in inner if key not in (keys or ())]
        if keys is None or wrong or (keys and not isinstance(value, dict)):
            return [f"{in_one_line('.'.join(map(str, ['hydra', name, *wrong[:1]])))}: {_FIXED}"]
    params = settings.get("sweeper", {}).get("params") or {}
    if not isinstance(params, dict) or any(not isinstance(value, str | int | float) for value in params.values()):
        return ["hydra.sweeper.params: write each key with its values as one text, such as `seed: 1,2,3`"]
    return []
