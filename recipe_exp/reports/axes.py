"""On what axis the values of a key belong: numbers evenly or by their ratios, everything else one beside the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from recipe_exp.config.messages import show_value

# Values that span more than this factor are told apart by their ratios.
_LOG_RATIO = 8.0
_RATES = ("learning_rate", "weight_decay", "epsilon", "learning_rate_ratio")
_NUM_NEXT = 2


@dataclass(frozen=True)
class Axis:
    """Where the values of a key stand.

    Attributes:
        is_numeric: whether they are numbers.
        is_log: whether ratios count, as they do for rates.
        is_whole: whether all are whole numbers.
        labels: of the values, each at its index, where they are no numbers.
    """

    is_numeric: bool
    is_log: bool = False
    is_whole: bool = False
    labels: tuple[str, ...] = ()

    def position(self, value: Any) -> float:
        """Returns where a value stands: a number as it is, anything else at the index of its label."""
        number = as_number(value)
        if self.is_numeric and number is not None:
            return number
        return float(self.labels.index(_label(value)))


def axis_of(key: str, values: Sequence[Any]) -> Axis:
    """Returns the axis for the values of a key.

    Ratios count for rates, for what spans a factor of eight or more, and for three values or more at equal ratios.
    """
    numbers = [as_number(value) for value in values]
    known = [number for number in numbers if number is not None]
    if not known or len(known) < len(numbers):
        return Axis(is_numeric=False, labels=tuple(dict.fromkeys(map(_label, values))))
    is_positive = min(known) > 0
    is_rate = key.rpartition(".")[2] in _RATES
    is_log = is_positive and (is_rate or max(known) / min(known) >= _LOG_RATIO or _is_geometric(sorted(set(known))))
    return Axis(is_numeric=True, is_log=is_log, is_whole=all(number.is_integer() for number in known))


def _is_geometric(values: Sequence[float]) -> bool:
    ratios = [after / before for before, after in pairwise(values)]
    return len(ratios) > 1 and max(ratios) < 1.01 * min(ratios)


def as_number(value: Any) -> float | None:
    """Returns a value as a number, None if it is none; true and false are none."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def next_value(tried: Sequence[float], *, upward: bool, is_log: bool, is_whole: bool) -> tuple[float, ...]:
    """Returns the next values beyond one end of a row, at the distance, or ratio, of the last two there.

    Args:
        tried: in order, at least two.
        upward: beyond the last one, else before the first.
        is_log: whether the ratio is kept instead of the distance.
        is_whole: whether only whole numbers can follow.
    """
    end, inner = (tried[-1], tried[-2]) if upward else (tried[0], tried[1])
    found = []
    for _ in range(_NUM_NEXT):
        following = float(f"{end * end / inner if is_log else 2 * end - inner:.2g}")
        inner, end = end, following
        found.append(float(round(following)) if is_whole else following)
    is_allowed = min(tried) > 0
    return tuple(sorted({value for value in found if value not in tried and (value > 0 or not is_allowed)}))


def _label(value: Any) -> str:
    return "-" if value is None else value if isinstance(value, str) else show_value(value)
