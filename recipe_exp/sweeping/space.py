"""The space that a search draws from: the swept keys of a command line, in Hydra's grammar."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hydra.core.override_parser.types import Override

_SIGNIFICANT_DIGITS = 6
_MAX_DRAWS_IN_VAIN = 200


@dataclass(frozen=True)
class Dimension:
    """A swept key and the values that it may take.

    Attributes:
        key: a dotted key, or a group.
        kind: `float` and `int` lie between `low` and `high`, both included; `ordered` and `choice` are among `values`,
            of which `ordered` ones are numbers.
        low: of an interval.
        high: of an interval.
        is_log: whether an interval is drawn from by its logarithm: `tag(log, interval(1e-5,1e-3))`.
        values: as they would be typed.
    """

    key: str
    kind: Literal["float", "int", "ordered", "choice"]
    low: float = 0.0
    high: float = 0.0
    is_log: bool = False
    values: tuple[str, ...] = ()

    @property
    def ends(self) -> tuple[str, ...]:
        """The values with which the space is tried out before anything runs."""
        if self.values:
            return self.values
        return self.text(self.low), self.text(self.high)

    def text(self, value: Any) -> str:
        """Returns a drawn number as it would be typed: of an interval the number, else the value's place."""
        if self.values:
            return self.values[int(value)]
        return str(round(value)) if self.kind == "int" else f"{float(value):.{_SIGNIFICANT_DIGITS}g}"

    def draw(self, generator: random.Random) -> str:
        """Returns a value that is drawn uniformly, or uniformly in its logarithm."""
        if self.values:
            return generator.choice(self.values)
        low, high = (self.low - 0.5, self.high + 0.5) if self.kind == "int" else (self.low, self.high)
        if self.is_log:
            value = math.exp(generator.uniform(math.log(low), math.log(high)))
        else:
            value = generator.uniform(low, high)
        return self.text(min(max(value, self.low), self.high))


@dataclass(frozen=True)
class Space:
    """What a search draws from.

    Attributes:
        fixed: the overrides that all trials share.
        dimensions: the others.
    """

    fixed: tuple[str, ...]
    dimensions: tuple[Dimension, ...]

    @property
    def keys(self) -> list[str]:
        """The swept keys."""
        return [dimension.key for dimension in self.dimensions]

    def overrides(self, values: Mapping[str, str]) -> list[str]:
        """Returns the command line of the trial with these values."""
        return [*self.fixed, *(f"{key}={values[key]}" for key in self.keys)]

    def corners(self) -> Iterator[list[str]]:
        """Yields command lines that between them hold every value, and both ends of every interval."""
        first = {dimension.key: dimension.ends[0] for dimension in self.dimensions}
        yield self.overrides(first)
        for dimension in self.dimensions:
            for value in dimension.ends[1:]:
                yield self.overrides({**first, dimension.key: value})

    def draw(self, count: int, seed: int) -> list[list[str]]:
        """Returns command lines that are drawn at random, none twice; the first ones are the same for every count.

        Args:
            count: how many; a space of fewer combinations gives all of them.
            seed: of the draws.
        """
        found: dict[tuple[str, ...], None] = {}
        num_in_vain = 0
        for number in itertools.count():
            if len(found) >= count or num_in_vain > _MAX_DRAWS_IN_VAIN:
                break
            # A generator for each draw, so that a draw depends on nothing but its number.
            generator = random.Random(f"{seed}:{number}")
            values = tuple(dimension.draw(generator) for dimension in self.dimensions)
            num_in_vain = num_in_vain + 1 if values in found else 0
            found[values] = None
        return [self.overrides(dict(zip(self.keys, values, strict=True))) for values in found]


def space_of(overrides: Sequence[Override]) -> Space:
    """Returns the space that parsed overrides describe; without a swept key there is one trial."""
    fixed = [
        f"{item.get_key_element()}={item.get_value_element_as_str()}"
        for item in overrides
        if not item.is_sweep_override()
    ]
    swept = [_dimension(item) for item in overrides if item.is_sweep_override()]
    return Space(tuple(fixed), tuple(swept))


def _dimension(item: Override) -> Dimension:
    key, sweep = item.get_key_element(), item.value()
    if item.is_interval_sweep():
        assert not isinstance(sweep, str | int | float | None)
        interval: Any = sweep
        is_whole = isinstance(interval.start, int) and isinstance(interval.end, int)
        kind: Literal["float", "int"] = "int" if is_whole else "float"
        return Dimension(key, kind, interval.start, interval.end, "log" in interval.tags)
    values = tuple(item.sweep_string_iterator())
    return Dimension(key, "ordered" if all(map(_is_number, values)) else "choice", values=values)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
