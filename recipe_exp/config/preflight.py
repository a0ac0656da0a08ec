"""Finds every mistake in a list of overrides, so that a user sees them all at once, each with its remedy."""

from __future__ import annotations

import copy
import glob
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import ValidationError

from recipe_exp.config.base import Section
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.foreign_names import answer
from recipe_exp.config.messages import grouped_by_key, mistakes_of, show_value

_SECRET_WORDS = ("token", "password", "passwd", "secret", "webhook", "api_key", "apikey", "credential")


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
        value: the parsed value, None for a swept one.
    """

    line: str
    key: str
    operation: Operation
    value: Any


def find_unknown_option(change: Change, chosen: str, options: Sequence[str]) -> list[str]:
    """Returns the mistake of choosing an option that a group lacks, with the nearest real one."""
    if change.operation is Operation.DELETE or chosen in ("null", *options):
        return []
    return [f"{change.key}={chosen}: no such option; {_nearest(chosen, options)}"]


def find_unknown_keys(
    changes: Sequence[Change], base: Mapping[str, Any], options: Mapping[str, Sequence[str]]
) -> list[str]:
    """Returns one line for every change whose key the schema lacks or that may not be changed this way.

    Args:
        changes: value overrides, without group choices.
        base: the composed configuration without them; its `kind` entries say which option of a union is chosen.
        options: every group with its options.
    """
    mistakes = []
    known = list(_keys(ExperimentConfig, base))
    for change in changes:
        if change.key in known:
            mistakes += _misuse(change, options)
            continue
        mistakes.append(f"{_shown(change)}: {_remedy(change, known, options)}")
    return mistakes


def find_invalid_values(data: dict[str, Any], base: dict[str, Any]) -> list[str]:
    """Returns one line for every value the schema refuses and for every contradiction between sections.

    Contradictions are only looked for between valid sections, so each refused value is first replaced by the
    one in `base`.
    """
    data = copy.deepcopy(data)
    mistakes: list[str] = []
    for _ in range(3):
        try:
            ExperimentConfig.model_validate(data)
            break
        except ValidationError as error:
            mistakes += [line for line in mistakes_of(error) if line not in mistakes]
            for group in grouped_by_key(error.errors()):
                _restore(data, base, [str(part) for part in group[0]["loc"]])
    return mistakes


def find_missing_files(data: Mapping[str, Any]) -> list[str]:
    """Returns one line for every file or folder that the configuration names and this machine lacks."""
    found = []
    for key in ("data.path", "task.prompts_file", "model.name"):
        section, _, name = key.partition(".")
        value = data.get(section, {}).get(name)
        is_path = isinstance(value, str) and (key != "model.name" or value.startswith(("/", "./", "../", "~")))
        if is_path and value != "-" and not glob.has_magic(value) and not Path(value).expanduser().exists():
            found.append(
                f"{key}={show_value(value)}: no such file or folder; relative paths start at {Path.cwd().name}/"
            )
    return found


def _misuse(change: Change, options: Mapping[str, Sequence[str]]) -> list[str]:
    group, _, last = change.key.replace(".", "/").rpartition("/")
    if change.operation is Operation.DELETE:
        return [f"{change.line}: keys cannot be removed; set another value"]
    if change.operation is Operation.ADD:
        return [f"{change.line}: the key exists; write it without +"]
    if last == "kind" and group in options:
        return [f"{change.line}: an option brings its own keys; choose with {group}={'|'.join(options[group])}"]
    return []


def _shown(change: Change) -> str:
    """The override as typed, without a value that may be a secret."""
    if any(word in change.key.lower() for word in _SECRET_WORDS):
        return f"{change.key}=..."
    return change.line


def _remedy(change: Change, known: Sequence[str], options: Mapping[str, Sequence[str]]) -> str:
    last = change.key.rpartition(".")[2]
    group = change.key.replace(".", "/")
    same_name = [key for key in known if "." in change.key and key.rpartition(".")[2] == last]
    foreign = answer(change.key)
    if foreign and not same_name:
        return f"no such key; {foreign}"
    if any(word in change.key.lower() for word in _SECRET_WORDS):
        return "no such key; secrets come from the environment or .env, never from an override"
    if group in options:
        return f"a group, not a value; choose with {group}={'|'.join(options[group])}"
    for union, owner, keys in _other_options(change.key):
        if last in keys:
            return f"a key of {union}={owner}; choose that first"
    if same_name:
        return f"no such key; did you mean {' or '.join(same_name)}?"
    return f"no such key; {_nearest(change.key, known if '.' in change.key else [*known, *options])}"


def _nearest(name: str, candidates: Sequence[str]) -> str:
    close = get_close_matches(name, candidates, n=1, cutoff=0.6)
    if not close and "." in name:
        last = name.rpartition(".")[2]
        by_last = {key.rpartition(".")[2]: key for key in candidates}
        close = [by_last[match] for match in get_close_matches(last, list(by_last), n=1, cutoff=0.6)]
    if close:
        return f"did you mean {close[0]}?"
    if len(candidates) <= 12:
        return f"choose from {', '.join(candidates)}"
    return "--help lists the groups, --cfg job every key"


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


def sections_in(annotation: Any) -> list[type[Section]]:
    """Returns the sections that a field may hold: none for a value, several for a union."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType):
        return [section for argument in get_args(annotation) for section in sections_in(argument)]
    if hasattr(annotation, "__metadata__"):
        return sections_in(get_args(annotation)[0])
    return []


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
