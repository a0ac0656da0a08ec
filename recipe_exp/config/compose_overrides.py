"""Overrides one by one: parsed by Hydra behind bounds, and each with what is wrong with it by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import chain, islice, product
from math import isfinite, prod
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, OverrideType, RangeSweep

from recipe_exp.config import preflight
from recipe_exp.config.groups import GLOBAL_GROUPS, GROUPS
from recipe_exp.config.messages import show_line, show_path
from recipe_exp.config.preflight import Change, Operation
from recipe_exp.errors import ConfigError

MAX_SWEPT_VALUES = 10_000
MAX_LISTED_TRIALS = 32
_OPERATIONS = {
    OverrideType.CHANGE: Operation.CHANGE,
    OverrideType.ADD: Operation.ADD,
    OverrideType.FORCE_ADD: Operation.ADD,
    OverrideType.DEL: Operation.DELETE,
}


@dataclass
class Line:
    """One override: as it was typed, as it was parsed, and what is wrong with it.

    Attributes:
        text: as typed.
        change: None if the text cannot be parsed.
        values: the values, each as it would be typed; more than one in a sweep.
        is_swept: whether the values are to be tried in turn.
        is_interval: whether the values are the two ends of an interval, which only a search can draw from.
        mistakes: one line each.
        file: the file that it stands in, None for the command line.
    """

    text: str
    change: Change | None = None
    values: list[str] = field(default_factory=list)
    is_swept: bool = False
    is_interval: bool = False
    mistakes: list[str] = field(default_factory=list)
    file: Path | None = None

    @property
    def explained(self) -> list[str]:
        """The mistakes, each with the file that it was made in."""
        return self.mistakes if self.file is None else [f"{show_path(self.file)}: {line}" for line in self.mistakes]

    @property
    def chooses(self) -> bool:
        """Whether it chooses a group's option."""
        return self.change is not None and self.change.key in GROUPS

    @property
    def sets_hydra(self) -> bool:
        """Whether it is for Hydra."""
        return self.change is not None and self.change.key in preflight.HYDRA_KEYS


def read_overrides(overrides: Sequence[str], options: dict[str, list[str]]) -> list[Line]:
    """Parses a command line's overrides.

    Args:
        overrides: as typed.
        options: every group with its options.

    Raises:
        ConfigError: there are more than anybody types.
    """
    mistakes = preflight.find_too_many(overrides)
    if mistakes:
        raise ConfigError(mistakes)
    lines = [read_override(text, options) for text in overrides]
    found = preflight.find_wrong_launcher_settings([line.change for line in lines if line.change and not line.mistakes])
    for line in lines:
        line.mistakes += found.get(line.text, [])
    return lines


def read_override(text: str, options: dict[str, list[str]]) -> Line:
    """Parses an override and finds what is wrong with it by itself; its key is looked at later, among all the others.

    Hydra's parser lets errors of other kinds than its own through, such as those of Python's numbers and files.
    """
    line, change = Line(text), None
    mistake = preflight.find_unreadable(text)
    try:
        if not mistake:
            parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
            (item,) = parser.parse_overrides([text])
            line.is_swept = item.is_sweep_override()
            line.is_interval = item.is_interval_sweep()
            line.values, mistake = _values(item)
            change = None if mistake else _change(item, line.values, parser)
    except Exception:
        mistake = preflight.NO_OVERRIDE
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
    sweep: Any = item.value()
    if item.is_interval_sweep():
        return _ends(sweep)
    # Counted before it is expanded: a shuffled range would be built whole.
    if isinstance(sweep, RangeSweep) and not _length(sweep) < MAX_SWEPT_VALUES:
        return [], f"more than {MAX_SWEPT_VALUES:,} values; each would be a trial"
    values = list(islice(item.sweep_string_iterator(), MAX_SWEPT_VALUES + 1))
    if len(values) > MAX_SWEPT_VALUES:
        return [], f"more than {MAX_SWEPT_VALUES:,} values; each would be a trial"
    if item.key_or_group in GROUPS:
        values = [value for value in values if not value.endswith("schema")]
    return values, "" if values else "there is no such value; a sweep needs one or more"


def _ends(sweep: IntervalSweep) -> tuple[list[str], str]:
    start, end = sweep.start, sweep.end
    if start is None or end is None or not (isfinite(start) and isfinite(end) and start < end):
        return [], "an interval goes from a number to a larger one, such as interval(1e-5,1e-3)"
    if "log" in sweep.tags and start <= 0:
        return [], "a logarithmic interval begins above zero"
    return [str(start), str(end)], ""


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
    if item.is_sweep_override() and change.key.startswith("sweep."):
        return [f"{show_line(change.line)}: says how the sweep goes; give it one value"]
    if item.package is not None:
        return [f"{show_line(change.line)}: every group and key has one place; write {change.key}=..."]
    return preflight.find_impossible(change)


def trials_of(lines: Sequence[Line]) -> Iterator[tuple[str, ...]]:
    """Yields the overrides of each combination of values; of too many ones, each value with the first of the others."""
    texts = [
        [f"{line.change.key}={value}" for value in line.values] if line.change and line.is_swept else [line.text]
        for line in lines
    ]
    if prod(map(len, texts)) <= MAX_LISTED_TRIALS:
        yield from product(*texts)
        return
    first = tuple(values[0] for values in texts)
    others = ((*first[:at], value, *first[at + 1 :]) for at, values in enumerate(texts) for value in values[1:])
    yield from islice(chain([first], others), MAX_LISTED_TRIALS)
