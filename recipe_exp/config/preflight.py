"""Finds every mistake in a list of overrides, so that a user sees them all at once, each with its remedy."""

from __future__ import annotations

import copy
import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from recipe_exp.config.base import Section, sections_in
from recipe_exp.config.experiment import CONTRADICTION, ExperimentConfig
from recipe_exp.config.foreign_names import answer
from recipe_exp.config.groups import GLOBAL_GROUPS
from recipe_exp.config.launchers import DEFAULT_LAUNCHER, LAUNCHER_KEYS, LAUNCHERS, find_wrong_setting
from recipe_exp.config.messages import dotted_key, grouped_by_key, in_one_line, lines_of, show_line, show_setting
from recipe_exp.config.relevance import MAPPING_KEYS
from recipe_exp.secrets import find_secret, is_secret_name

_PACKAGE_HEADER = "# @package _global_"

LAUNCHER_GROUP = "hydra/launcher"
_SETTINGS_OF_HYDRA = {
    "hydra.mode": "RUN or MULTIRUN",
    LAUNCHER_GROUP: f"{', '.join(list(LAUNCHERS)[:-1])} or {list(LAUNCHERS)[-1]}",
    "hydra.launcher.slots": "how many trials run at once",
}
HYDRA_KEYS = frozenset(_SETTINGS_OF_HYDRA) | LAUNCHER_KEYS
"""What of Hydra's own configuration an override may set; all else is fixed, so that Hydra writes no file."""
NO_OVERRIDE = "not an override; write key=value, and quote values with spaces or commas"
"""What is said of a line that Hydra cannot parse."""
_TOO_DEEP = "nested too deeply; no key holds more than a list"
_MAX_DEPTH = 8
# Hydra's parser takes a second for a thousand values in a list, and four for twice as many.
_MAX_ITEMS = 1_000
_MAX_CHARACTERS = 50_000
_MAX_OVERRIDES = 1_000
# No name is longer, and comparing names takes time.
_MAX_NAME = 100
_MAX_LISTED = 300


class Operation(Enum):
    """What an override does to its key."""

    CHANGE = "change"
    ADD = "add"
    DELETE = "delete"


@dataclass(frozen=True)
class Change:
    """One override, parsed.

    Attributes:
        line: as it was typed.
        key: dotted key or group name.
        operation: `key=`, `+key=` or `~key`.
        value: the parsed value, for a swept key the first one; None for a deleted key.
    """

    line: str
    key: str
    operation: Operation = Operation.CHANGE
    value: Any = None


def find_too_many(overrides: Sequence[str]) -> list[str]:
    """Returns the mistake of giving more overrides than a person would type."""
    if len(overrides) > _MAX_OVERRIDES:
        return [f"{len(overrides):,} overrides: more than anybody types; write them into an experiment's file"]
    size = sum(map(len, overrides))
    if size > 20 * _MAX_CHARACTERS:
        return [f"{size:,} characters of overrides: more than anybody types; write them into an experiment's file"]
    return []


def find_unreadable(line: str) -> str:
    """Returns why an override is not even parsed, an empty text if it is: parsing could take for ever, or fail."""
    if len(line) > _MAX_CHARACTERS:
        return f"over {_MAX_CHARACTERS:,} characters; long texts belong in a file"
    if any("\ud800" <= character <= "\udfff" for character in line):
        return "is not UTF-8"
    depth = deepest = num_items = 0
    quote = ""
    previous = ""
    for character in line:
        if quote:
            quote = "" if character == quote and previous != "\\" else quote
        elif character in "'\"":
            quote = character
        elif character in "[{(":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]})":
            depth -= 1
        elif character == "," and depth > 0:
            num_items += 1
        previous = character
    if deepest > 2 * _MAX_DEPTH:
        return _TOO_DEEP
    return f"over {_MAX_ITEMS:,} values in a list; longer ones belong in a file" if num_items > _MAX_ITEMS else ""


def find_impossible(change: Change) -> list[str]:
    """Returns the mistake of a change that no configuration could take: one of Hydra's own, or of a nested value."""
    shown = show_line(change.line)
    if change.key.replace("/", ".").partition(".")[0] == "hydra":
        is_unknown_launcher = change.key == LAUNCHER_GROUP and str(change.value) not in LAUNCHERS
        if change.key not in HYDRA_KEYS or change.operation is not Operation.CHANGE or is_unknown_launcher:
            settings = ", ".join(f"{key} ({what})" for key, what in _SETTINGS_OF_HYDRA.items())
            return [f"{shown}: Hydra's own settings are fixed, except {settings} and the launcher's other keys"]
        if change.key == "hydra.mode" and change.value not in ("RUN", "MULTIRUN"):
            return [f"{shown}: must be {_SETTINGS_OF_HYDRA[change.key]}"]
    if _is_deep(change.value, _MAX_DEPTH):
        return [f"{shown}: {_TOO_DEEP}"]
    return []


def find_wrong_launcher_settings(changes: Sequence[Change]) -> dict[str, list[str]]:
    """Returns what is wrong with the settings of the launcher that is chosen among all changes, by their lines."""
    chosen = [str(change.value) for change in changes if change.key == LAUNCHER_GROUP]
    launcher = chosen[-1] if chosen else DEFAULT_LAUNCHER
    return {
        change.line: find_wrong_setting(launcher, change.key, change.value)
        for change in changes
        if change.key in LAUNCHER_KEYS
    }


def find_unknown_option(
    change: Change, chosen: Sequence[str], options: Sequence[str], *, can_be_null: bool
) -> list[str]:
    """Returns the mistakes of choosing options that a group lacks, with the nearest real ones.

    Args:
        change: the choice.
        chosen: the options that it names; several in a sweep.
        options: what the group has.
        can_be_null: whether the group may be left out.
    """
    listed = in_one_line("|".join([*options, *(["null"] if can_be_null else [])]), _MAX_LISTED)
    how = f"{change.key}={listed}"
    if change.operation is Operation.DELETE:
        return [f"{show_line(change.line)}: a group cannot be removed; choose with {how}"]
    if change.operation is Operation.ADD:
        return [f"{show_line(change.line)}: the group exists; write it without +"]
    allowed = ("null", *options) if can_be_null else options
    unknown = [name for name in chosen if name not in allowed]
    return [f"{show_setting(change.key, name)}: no such option; {_nearest_option(name, allowed)}" for name in unknown]


def is_of_other_option(key: str, base: Mapping[str, Any]) -> bool:
    """Returns whether a key is missing only because another option of its union is chosen in `base`."""
    last = key.rpartition(".")[2]
    return key not in _keys(ExperimentConfig, base) and any(last in keys for *_, keys in _other_options(key))


def find_unknown_key(change: Change, base: Mapping[str, Any], options: Mapping[str, Sequence[str]]) -> list[str]:
    """Returns the mistake of a change whose key the schema lacks or that may not be changed this way.

    Args:
        change: one of a value, not the choice of a group's option.
        base: the composed configuration without it; its `kind` entries say which option of a union is chosen.
        options: every group with its options.
    """
    known = list(_keys(ExperimentConfig, base))
    if change.key in known:
        return _misuse(change, options)
    return [f"{show_line(change.line)}: {_remedy(change.key, known, options)}"]


def find_invalid_values(
    data: dict[str, Any],
    base: dict[str, Any],
    options: Mapping[str, Sequence[str]],
    *,
    with_contradictions: bool = True,
) -> list[str]:
    """Returns one line for every value the schema refuses and for every contradiction between sections.

    Contradictions are only looked for between valid values, so each refused value is first replaced by the one in
    `base`; one that such a replaced value takes part in is not reported, and none where a group's choice is unknown.
    """
    data = copy.deepcopy(data)
    mistakes: list[str] = []
    replaced: list[str] = []
    while True:
        try:
            ExperimentConfig.model_validate(data)
            return mistakes
        except ValidationError as error:
            groups = grouped_by_key(error.errors())
        fresh = [group for group in groups if not _is_around(dotted_key(group[0]["loc"]), replaced)]
        if not fresh or (fresh[0][0]["type"] == CONTRADICTION and not with_contradictions):
            return mistakes
        lines = [line for group in fresh for line in _explain(group, data, options)]
        mistakes += [line for line in lines if not any(key in line for key in replaced)]
        if fresh[0][0]["type"] == CONTRADICTION:
            return mistakes
        for group in fresh:
            replaced.append(dotted_key(group[0]["loc"]))
            _restore(data, base, [str(part) for part in group[0]["loc"]])


def explain_flag(flag: str) -> str:
    """Returns what to write instead of a flag that does not exist, such as `--learning_rate`."""
    key = flag.lstrip("-").replace("-", "_")
    known = list(_keys(ExperimentConfig, {}))
    if key in known:
        return f"keys are no flags; write {key}=..."
    return _remedy(key, known, {}).replace("no such key", "no such flag; keys are written key=value", 1)


def find_secrets(words: Sequence[str]) -> list[str]:
    """Returns one line for every word of a command line that holds a secret."""
    found = []
    for word in words:
        key, sign, value = word.partition("=")
        is_named = sign and is_secret_name(key.partition("@")[0].strip()) and value not in ("", "null")
        kind = "a value under the name of a secret" if is_named else find_secret(word)
        if kind:
            found.append(f"{show_line(word)}: holds {kind}; secrets come from the environment or .env, never from here")
    return found


def find_missing_files(data: Mapping[str, Any]) -> list[str]:
    """Returns one line for every file or folder that the configuration names and this machine lacks."""
    found = []
    for key in ("data.path", "task.prompts_file", "model.name"):
        section, _, name = key.partition(".")
        values = data.get(section)
        value = values.get(name) if isinstance(values, Mapping) else None
        # On the Hub a model and a dataset have names; of a model that looks like one, a path is told by its beginning.
        is_name = key == "data.path" and isinstance(values, Mapping) and values.get("format") == "huggingface"
        starts_as_path = isinstance(value, str) and value.startswith(("/", "./", "../", "~"))
        is_path = isinstance(value, str) and (starts_as_path or (key != "model.name" and not is_name))
        if is_path and value != "-" and not _exists(str(value)):
            where = (
                "" if Path(str(value)).is_absolute() or str(value).startswith("~") else f"; looked for in {Path.cwd()}"
            )
            found.append(f"{show_setting(key, value)}: no such file or folder{where}")
    return found


def _is_deep(value: Any, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels == 0 or any(_is_deep(item, levels - 1) for item in inner)


def _exists(path: str) -> bool:
    path = os.path.expanduser(path)  # noqa: PTH111 - pathlib raises for the home of an unknown user
    if os.path.exists(path):  # noqa: PTH110 - pathlib raises for a name that is too long
        return True
    if not glob.has_magic(path) or path.startswith("/**"):  # which would search the whole disk
        return glob.has_magic(path)
    return next(glob.iglob(path, recursive=True), None) is not None  # noqa: PTH207


def _is_around(key: str, replaced: Sequence[str]) -> bool:
    """Whether the error at a key only says that a value in it was taken out."""
    return any(f"{name}.".startswith(f"{key}.") for name in replaced)


def _explain(group: list[ErrorDetails], data: dict[str, Any], options: Mapping[str, Sequence[str]]) -> list[str]:
    first = group[0]
    if first["type"] != "extra_forbidden":
        return lines_of(group)
    key = dotted_key(first["loc"])
    known = list(_keys(ExperimentConfig, data))
    if any("." in str(part) for part in first["loc"]):
        section, _, inner = map(in_one_line, key.partition("."))
        return [f"{show_setting(key, first['input'])}: in a file keys are nested, as in `{section}: {{{inner}: ...}}`"]
    return [f"{show_setting(key, first['input'])}: {_remedy(key, known, options)}"]


def _misuse(change: Change, options: Mapping[str, Sequence[str]]) -> list[str]:
    group, _, last = change.key.replace(".", "/").rpartition("/")
    shown = show_line(change.line)
    if change.operation is Operation.DELETE:
        return [f"{shown}: keys cannot be removed; set another value"]
    if change.operation is Operation.ADD:
        return [f"{shown}: the key exists; write it without +"]
    if change.value == "???":
        return [f"{shown}: stands for a missing value; give one, or leave the key out"]
    if last == "kind" and group in options:
        return [f"{shown}: an option brings its own keys; choose with {group}={'|'.join(options[group])}"]
    return []


def _remedy(key: str, known: Sequence[str], options: Mapping[str, Sequence[str]]) -> str:
    """Says what to write instead of a key that does not exist, from the surest to the vaguest."""
    last = key.rpartition(".")[2]
    group = key.replace(".", "/")
    same_name = [name for name in known if "." in key and name.rpartition(".")[2] == last]
    inner = [name for name in known if name.startswith(f"{key}.")]
    mapping = next((name for name in MAPPING_KEYS if key.startswith(f"{name}.")), None)
    if mapping:
        return f"a part of one value; write the whole, such as {mapping}={{{key.removeprefix(f'{mapping}.')}:...}}"
    foreign = answer(key, is_whole=bool(same_name))
    if foreign:
        return f"no such key; {foreign}"
    if group in options:
        header = f"; a file of the group begins with `{_PACKAGE_HEADER}`" if group in GLOBAL_GROUPS else ""
        return f"a group, not a value; choose with {group}={'|'.join(options[group])}{header}"
    if inner:
        return f"a section, not a value; set its keys, such as {inner[0]}"
    for union, owner, keys in _other_options(key):
        if last in keys:
            return f"a key of {union}={owner}; choose that first"
    if same_name:
        return f"no such key; did you mean {' or '.join(same_name)}?"
    if is_secret_name(key) and not get_close_matches(last, _own_names(known), n=1, cutoff=0.9):
        return "no such key; secrets come from the environment or .env, never from a configuration"
    return f"no such key; {_nearest_key(key, known, options)}"


def _nearest_option(name: str, options: Sequence[str]) -> str:
    close = get_close_matches(name[:_MAX_NAME], options, n=1, cutoff=0.6)
    if close:
        return f"did you mean {in_one_line(close[0])}?"
    return f"choose from {in_one_line(', '.join(options), _MAX_LISTED)}" if options else "there is none yet"


def _nearest_key(name: str, known: Sequence[str], options: Mapping[str, Sequence[str]]) -> str:
    """Finds the key whose own name is most alike; among equals the one whose sections are."""
    candidates = [*known, *options]
    last = _own_names([name[-_MAX_NAME:]])[0].strip("_")
    own_names = dict(zip(candidates, _own_names(candidates), strict=True))
    close = get_close_matches(last, set(own_names.values()), n=1, cutoff=0.7)
    alike = [key for key in candidates if close and own_names[key] == close[0]] or [
        key for key in candidates if len(last) > 3 and set(last.split("_")) <= set(own_names[key].split("_"))
    ]
    if alike:
        return f"did you mean {max(alike, key=lambda key: SequenceMatcher(None, name[-_MAX_NAME:], key).ratio())}?"
    # Of a short name two letters in the wrong order are too many, with its section they are few.
    whole = get_close_matches(name[-_MAX_NAME:], candidates, n=1, cutoff=0.85)
    if whole:
        return f"did you mean {whole[0]}?"
    return "--help lists the groups, --cfg job every key"


def _own_names(keys: Sequence[str]) -> list[str]:
    return [key.replace("/", ".").rpartition(".")[2] for key in keys]


def _keys(section: type[Section], values: Any, prefix: str = "") -> Iterator[str]:
    """Yields every dotted key of the chosen options that holds a value."""
    for name, field in section.model_fields.items():
        here = values.get(name) if isinstance(values, Mapping) else None
        options = sections_in(field.annotation)
        if not options:
            yield f"{prefix}{name}"
            continue
        kind = here.get("kind") if isinstance(here, Mapping) else None
        chosen = next((option for option in options if _kind(option) == kind), options[0])
        yield from _keys(chosen, here, f"{prefix}{name}.")


def _other_options(key: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yields (group, option, its keys) of the union that a key points into."""
    parts = key.split(".")
    section: type[Section] = ExperimentConfig
    for depth, part in enumerate(parts[:-1]):
        field = section.model_fields.get(part)
        options = sections_in(field.annotation) if field else []
        if not options:
            return
        if len(options) > 1:
            for option in options:
                yield "/".join(parts[: depth + 1]), _kind(option), list(option.model_fields)
            return
        section = options[0]


def _kind(section: type[Section]) -> str:
    field = section.model_fields.get("kind")
    return str(field.default) if field else ""


def _restore(data: dict[str, Any], base: dict[str, Any], location: Sequence[str]) -> None:
    """Replaces the refused value by the one in `base`, or removes it where `base` has none."""
    target, source = data, base
    for part in location:
        if not isinstance(target, dict):
            return
        inner = source.get(part) if isinstance(source, dict) else None
        if isinstance(target.get(part), dict) and isinstance(inner, dict):
            target, source = target[part], inner
        elif part in target:
            if inner is None and part not in source:
                del target[part]
            else:
                target[part] = inner
            return
