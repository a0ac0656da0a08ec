"""Whether metrics see what they are meant to see: genuine recipes against themselves spoilt, as paired AUC.

The area under the ROC curve of pairs (Hanley and McNeil, 1982): how often the genuine recipe scores higher than the
same recipe spoilt, an equal score counting half. 0.5 says that a metric does not see a fault, 1 that it always does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recipe_exp.metrics.bootstrap import bootstrap, mean_of
from recipe_exp.metrics.constraints import kept_diets
from recipe_exp.metrics.corruptions import CORRUPTIONS, SEVERITIES, Corruption
from recipe_exp.metrics.knowledge import Knowledge
from recipe_exp.metrics.metric import Fault, RecipeMetric
from recipe_exp.metrics.reading import Reading
from recipe_exp.metrics.registry import METRICS, RECIPE_METRICS
from recipe_exp.recipes import Recipe, normalise_title, render_markdown


@dataclass(frozen=True, slots=True)
class Cell:
    """How a metric answers a corruption.

    Attributes:
        auc: of the pairs.
        low: lower end of its bootstrap interval over recipes, 95 %.
        high: upper end.
        n: pairs, each of a recipe that the corruption changes and the metric applies to.
        intended: whether the metric is meant to see this fault.
        ignored: whether it is meant to ignore it.
    """

    auc: float
    low: float
    high: float
    n: int
    intended: bool
    ignored: bool


Row = Mapping[str, Cell]


@dataclass(frozen=True, slots=True)
class Validation:
    """The matrix of faults and metrics.

    Attributes:
        matrix: fault -> metric -> cell, each corruption at its own severity.
        severities: fault -> metric that is meant to see it -> AUC at the severities 0.1, 0.3, 0.5 and 1, where
            severities make sense.
    """

    matrix: Mapping[str, Row]
    severities: Mapping[str, Mapping[str, tuple[float, ...]]]

    def to_dict(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return `{corruption: {metric: {"auc", "low", "high", "n", "intended", "ignored"}}}`, or `severities` too."""
        content: dict[str, dict[str, dict[str, Any]]] = {}
        for fault, row in self.matrix.items():
            content[fault] = {}
            for metric, cell in row.items():
                entry: dict[str, Any] = {
                    "auc": cell.auc,
                    "low": cell.low,
                    "high": cell.high,
                    "n": cell.n,
                    "intended": cell.intended,
                    "ignored": cell.ignored,
                }
                if metric in self.severities.get(fault, {}):
                    entry["severities"] = list(self.severities[fault][metric])
                content[fault][metric] = entry
        return content


def validate_metrics(
    genuine: Sequence[Recipe], knowledge: Knowledge, copied_from: Sequence[Recipe], *, seed: int = 0
) -> Validation:
    """Return how each reference-free recipe metric answers each corruption of genuine recipes.

    Args:
        genuine: recipes that `knowledge` was not learnt from, at least two of different titles.
        knowledge: what was learnt from training recipes.
        copied_from: some of these training recipes, for the corruption that copies them.
        seed: of donors and of what the corruptions draw.

    Raises:
        ValueError: there are fewer than two genuine recipes, or none to copy from.
    """
    if len(genuine) < 2 or not copied_from:
        raise ValueError("at least two recipes and one to copy from are needed to spoil a recipe with another one")
    prompts = [prompt_of(recipe) for recipe in genuine]
    readings = [Reading(render_markdown(recipe), *row, knowledge) for recipe, row in zip(genuine, prompts, strict=True)]
    whole = [_scores(reading, RECIPE_METRICS) for reading in readings]
    pairs = _Pairs(genuine, prompts, whole, copied_from, knowledge, seed)
    matrix = {str(fault): _row(fault, pairs.wins(corruption)) for fault, corruption in CORRUPTIONS.items()}
    severities = {}
    for fault, corruption in CORRUPTIONS.items():
        if corruption.has_severities:
            meant = [metric for metric in RECIPE_METRICS if fault in metric.sees]
            severities[str(fault)] = _severity_row([pairs.wins(corruption, one, meant) for one in SEVERITIES])
    return Validation(matrix, severities)


def prompt_of(recipe: Recipe) -> tuple[str, tuple[str, ...]]:
    """Return a prompt with the recipe's ingredients and every diet that it keeps to, and the ingredients."""
    diets, ingredients = " ".join(kept_diets(recipe.ingredients)), ", ".join(recipe.ingredients)
    return f"Write a {diets} recipe for {recipe.title} using: {ingredients}", recipe.ingredients


@dataclass(frozen=True)
class _Pairs:
    genuine: Sequence[Recipe]
    prompts: Sequence[tuple[str, tuple[str, ...]]]
    whole: Sequence[Mapping[str, float]]
    copied_from: Sequence[Recipe]
    knowledge: Knowledge
    seed: int

    def wins(
        self,
        corruption: Corruption,
        severity: float | None = None,
        metrics: Sequence[RecipeMetric] = RECIPE_METRICS,
    ) -> dict[str, list[float]]:
        """Return metric -> 1, 0.5 or 0 for each recipe that can be spoilt so: genuine above, equal, below."""
        wins: dict[str, list[float]] = {metric.name: [] for metric in metrics}
        donors = self._donors(corruption.fault)
        for index, (recipe, donor) in enumerate(zip(self.genuine, donors, strict=True)):
            text = corruption(recipe, donor, seed=self.seed + index, severity=severity)
            if text is None:
                continue
            spoilt = _scores(Reading(text, *self.prompts[index], self.knowledge), metrics)
            for name in self.whole[index].keys() & spoilt.keys():
                difference = self.whole[index][name] - spoilt[name]
                # Sums of equal terms in another order differ in their last digits.
                wins[name].append(0.5 if abs(difference) < 1e-9 else float(difference > 0))
        return wins

    def _donors(self, fault: Fault) -> Iterator[Recipe]:
        random = np.random.default_rng(self.seed)
        others = self.copied_from if fault is Fault.COPIED else self.genuine
        for recipe in self.genuine:
            donor = others[int(random.integers(len(others)))]
            for _ in range(20):
                if normalise_title(donor.title) != normalise_title(recipe.title):
                    break
                donor = others[int(random.integers(len(others)))]
            yield donor


def _scores(reading: Reading, metrics: Sequence[RecipeMetric]) -> dict[str, float]:
    return {metric.name: score for metric in metrics if (score := metric(reading)) is not None}


def _row(fault: Fault, wins: Mapping[str, Sequence[float]]) -> dict[str, Cell]:
    row = {}
    for name, values in wins.items():
        if not values:
            continue
        interval = bootstrap({"auc": mean_of(values)})["auc"]
        metric = METRICS[name]
        row[name] = Cell(
            auc=round(interval.value, 4),
            low=round(interval.low, 4),
            high=round(interval.high, 4),
            n=len(values),
            intended=fault in metric.sees,
            ignored=fault in metric.ignores,
        )
    return row


def _severity_row(wins: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, tuple[float, ...]]:
    return {
        name: tuple(round(float(np.mean(one[name])), 4) if one[name] else float("nan") for one in wins)
        for name in wins[0]
    }
