"""What a metric is: its name, definition, direction and range, and what it is meant to see and to ignore."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from recipe_exp.metrics.reading import Reading

Direction = Literal["higher", "lower", "nearest to 1"]
Sums = Sequence[float]


class Fault(StrEnum):
    """What can be wrong with a recipe; `corruptions.py` makes each of them on purpose."""

    SHUFFLED_STEPS = "shuffled_steps"
    REVERSED_STEPS = "reversed_steps"
    FOREIGN_INGREDIENTS = "foreign_ingredients"
    SWAPPED_INGREDIENTS = "swapped_ingredients"
    DROPPED_INGREDIENTS = "dropped_ingredients"
    DROPPED_SECTION = "dropped_section"
    REMOVED_QUANTITIES = "removed_quantities"
    PERMUTED_QUANTITIES = "permuted_quantities"
    TRUNCATED = "truncated"
    LOOPING_STEP = "looping_step"
    SWAPPED_TITLE = "swapped_title"
    DISTORTED_SETTINGS = "distorted_settings"
    COPIED = "copied"
    FORBIDDEN_INGREDIENT = "forbidden_ingredient"


@dataclass(frozen=True, slots=True)
class Metric:
    """One number that `compute_metrics` can give.

    Attributes:
        name: its key in results; MLflow's name is `eval/` and this.
        definition: what it measures and where it fails.
        direction: what is better: `higher`, `lower`, or `nearest to 1`.
        low: the smallest possible value.
        high: the largest possible value.
        is_reference_free: whether it looks at the prediction and its prompt alone.
        value: the metric of any set of examples from the sums of their statistics. Equal sums give equal values, so
            parts of a set may be merged, and a bootstrap weighs examples.
        sees: the faults that lower it by design.
        ignores: the faults that leave it where it is by design.
    """

    name: str
    definition: str
    direction: Direction
    low: float
    high: float
    is_reference_free: bool
    value: Callable[[Sums], float]
    sees: frozenset[Fault] = frozenset()
    ignores: frozenset[Fault] = frozenset()


@dataclass(frozen=True, slots=True)
class RecipeMetric:
    """A reference-free score of one recipe in [0, 1], higher is better; called with a text or its `Reading`.

    Attributes:
        function: the definition; None where the metric does not apply, as without a constraint to adhere to.
        sees: the faults that lower it by design.
        ignores: the faults that leave it where it is by design.
    """

    function: Callable[[Reading], float | None]
    sees: frozenset[Fault]
    ignores: frozenset[Fault]

    def __call__(self, prediction: str | Reading) -> float | None:
        return self.function(prediction if isinstance(prediction, Reading) else Reading(prediction))

    @property
    def name(self) -> str:
        """The name of the function that defines it."""
        return self.function.__name__

    def describe(self) -> Metric:
        """Return its entry in the registry: over several recipes it is the mean of those it applies to."""
        definition = inspect.getdoc(self.function) or ""
        return Metric(self.name, definition, "higher", 0.0, 1.0, True, mean, self.sees, self.ignores)


def recipe_metric(
    *, sees: Sequence[Fault] = (), ignores: Sequence[Fault] = ()
) -> Callable[[Callable[[Reading], float | None]], RecipeMetric]:
    """Return the decorator that makes a metric of a function and declares what it is meant to see and to ignore."""

    def decorate(function: Callable[[Reading], float | None]) -> RecipeMetric:
        return RecipeMetric(function, frozenset(sees), frozenset(ignores))

    return decorate


def mean(sums: Sums) -> float:
    """Return the first sum divided by the second, the number of examples; NaN of none."""
    total, count = sums
    return total / count if count else math.nan
