"""Whether the temperatures and times of a recipe are ones that a kitchen knows."""

from __future__ import annotations

import re

from recipe_exp.metrics.metric import Fault, recipe_metric
from recipe_exp.metrics.reading import Reading

# Degrees: from a freezer to the hottest oven or pan. A number without a letter may be meant in either scale.
FAHRENHEIT = (-20, 600)
CELSIUS = (-30, 320)
# The longest that recipes state, in each unit: longer times are written in the next one.
LONGEST = {"second": 300, "minute": 240, "hour": 48, "day": 90}

_NUMBER = r"(\d{1,6}(?:\.\d+)?)"
_RANGE = rf"{_NUMBER}(?:\s*(?:-|–|to|or)\s*{_NUMBER})?"
_TEMPERATURE = re.compile(rf"(?<![\d/.]){_RANGE}\s*(?:°|º|degrees?\b)\s*(fahrenheit|celsius|[fc]\b)?", re.IGNORECASE)
_TIME = re.compile(rf"(?<![\d/.]){_RANGE}[\s-]*(second|sec|minute|min|hour|hr|day)s?\b", re.IGNORECASE)
_UNITS = {"sec": "second", "min": "minute", "hr": "hour"}


@recipe_metric(
    sees=(Fault.DISTORTED_SETTINGS,),
    ignores=(
        Fault.SHUFFLED_STEPS,
        Fault.REVERSED_STEPS,
        Fault.FOREIGN_INGREDIENTS,
        Fault.SWAPPED_INGREDIENTS,
        Fault.DROPPED_INGREDIENTS,
        Fault.REMOVED_QUANTITIES,
        Fault.PERMUTED_QUANTITIES,
        Fault.TRUNCATED,
        Fault.LOOPING_STEP,
        Fault.SWAPPED_TITLE,
    ),
)
def temperature_time_sanity(reading: Reading) -> float:
    """Share of the temperatures and times in the steps that a kitchen knows; 1 where steps state none, 0 without steps.

    A temperature is sane from -20 to 600 °F or -30 to 320 °C, above 0 where it says neither; a time up to 5 minutes in
    seconds, 4 hours in minutes, 2 days in hours, 90 in days, and above 0. Of a range both ends are looked at, and it
    must rise. Blind to a sane value in the wrong place: a cake baked for 6 hours at 600 °F passes. Recipes that state
    nothing pass too, so it says little alone.
    """
    text = reading.instructions
    if not text:
        return 0.0
    checks = [_is_sane_temperature(match) for match in _TEMPERATURE.finditer(text)]
    checks += [_is_sane_time(match) for match in _TIME.finditer(text)]
    return sum(checks) / len(checks) if checks else 1.0


def _is_sane_temperature(match: re.Match[str]) -> bool:
    scale = (match[3] or "").casefold()[:1]
    low, high = CELSIUS if scale == "c" else FAHRENHEIT if scale == "f" else (1, FAHRENHEIT[1])
    return _is_within(match, low, high)


def _is_sane_time(match: re.Match[str]) -> bool:
    unit = match[3].casefold()
    return _is_within(match, 0, LONGEST[_UNITS.get(unit, unit)]) and float(match[1]) > 0


def _is_within(match: re.Match[str], low: float, high: float) -> bool:
    first = float(match[1])
    last = float(match[2]) if match[2] else first
    return low <= first <= last <= high
