"""All metrics of a set of predictions, and accumulators whose parts merge into the whole."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

from recipe_exp.metrics import recipe as recipe_metrics
from recipe_exp.metrics.text import BleuStatistics, bleu_statistics, check_pairs, perplexity, rouge_scores
from recipe_exp.recipes import read_recipe


@dataclass(frozen=True, slots=True)
class RecipeScores:
    """One prediction's own scores, all in [0, 1]; `prompt_adherence` is None if nothing was asked for."""

    rouge1: float
    rouge2: float
    rougeL: float  # noqa: N815 - the metric's established name
    ingredient_coherence: float
    instruction_quality: float
    completeness: float
    format_correctness: float
    well_formed: float
    prompt_adherence: float | None = None


@dataclass(frozen=True, slots=True)
class RecipeMetrics:
    """The metrics of a set of predictions; `print` shows an aligned table.

    Attributes:
        scores: name -> value, only what was computed, in a fixed order: `loss` in nats a token, `perplexity`,
            `bleu` in [0, 100], the others means over the recipes in [0, 1]. `prompt_adherence` is the mean over
            the recipes whose prompt asked for ingredients.
        per_recipe: each prediction's own scores, in order.
    """

    scores: Mapping[str, float]
    per_recipe: tuple[RecipeScores, ...] = field(repr=False)

    def to_dict(self) -> dict[str, float]:
        """Return name -> value of what was computed."""
        return dict(self.scores)

    def __getitem__(self, name: str) -> float:
        return self.scores[name]

    def __str__(self) -> str:
        width = max(map(len, self.scores))
        rows = [f"{name:<{width}}  {_format(value):>10}" for name, value in self.scores.items()]
        count = len(self.per_recipe)
        return "\n".join([*rows, f"{'recipes':<{width}}  {count:>10}"])


@dataclass(frozen=True, slots=True)
class MetricAccumulator:
    """What the metrics of a set of predictions are computed from; adding two gives that of both sets.

    Merging the parts of any partition, in order, gives exactly the whole: BLEU from integer counts, the means
    from exactly rounded sums.
    """

    bleu: BleuStatistics = field(default_factory=BleuStatistics)
    per_recipe: tuple[RecipeScores, ...] = ()

    def __add__(self, other: MetricAccumulator) -> MetricAccumulator:
        return MetricAccumulator(self.bleu + other.bleu, self.per_recipe + other.per_recipe)

    def compute(self, loss: float | None = None) -> RecipeMetrics:
        """Return the metrics of everything accumulated.

        Args:
            loss: token-weighted mean cross-entropy in nats, which also gives the perplexity.

        Raises:
            ValueError: nothing was accumulated.
        """
        if not self.per_recipe:
            raise ValueError("no predictions to score; accumulate at least one before computing")
        scores = {} if loss is None else {"loss": float(loss), "perplexity": perplexity(loss)}
        scores["bleu"] = self.bleu.score()
        for name in (score_field.name for score_field in fields(RecipeScores)):
            values = [value for recipe in self.per_recipe if (value := getattr(recipe, name)) is not None]
            if values:
                scores[name] = math.fsum(values) / len(values)
        return RecipeMetrics(scores, self.per_recipe)


def accumulate(
    references: Sequence[str],
    predictions: Sequence[str],
    *,
    prompt_ingredients: Sequence[Sequence[str]] | None = None,
) -> MetricAccumulator:
    """Return the accumulator of one part of the predictions; see `compute_metrics` for the arguments."""
    check_pairs(references, predictions)
    asked = _asked(prompt_ingredients, len(predictions))
    rouge = rouge_scores(references, predictions)
    per_recipe = tuple(_score_recipe(*row) for row in zip(predictions, asked, rouge, strict=True))
    return MetricAccumulator(bleu_statistics(references, predictions), per_recipe)


def compute_metrics(
    references: Sequence[str],
    predictions: Sequence[str],
    *,
    prompt_ingredients: Sequence[Sequence[str]] | None = None,
    loss: float | None = None,
) -> RecipeMetrics:
    """Return every metric of predicted recipes, given as markdown texts.

    Args:
        references: the recipe that each prediction is compared with.
        predictions: the generated recipes.
        prompt_ingredients: for each prediction the ingredients its prompt asked for; an empty list leaves that
            recipe out of `prompt_adherence`.
        loss: token-weighted mean cross-entropy in nats, which also gives the perplexity.

    Raises:
        ValueError: the lengths differ or there is nothing to score.
    """
    return accumulate(references, predictions, prompt_ingredients=prompt_ingredients).compute(loss)


def _asked(prompt_ingredients: Sequence[Sequence[str]] | None, count: int) -> Sequence[Sequence[str]]:
    if prompt_ingredients is None:
        return [()] * count
    if len(prompt_ingredients) != count:
        raise ValueError(
            f"{len(prompt_ingredients)} lists of prompt_ingredients but {count} predictions; pass one for each"
        )
    for index, ingredients in enumerate(prompt_ingredients):
        if isinstance(ingredients, str):
            raise ValueError(f"prompt_ingredients[{index}] is one string; pass a list of ingredients")
    return prompt_ingredients


def _score_recipe(prediction: str, asked: Sequence[str], rouge: Mapping[str, float]) -> RecipeScores:
    parsed = read_recipe(prediction)
    return RecipeScores(
        **rouge,
        ingredient_coherence=recipe_metrics.ingredient_coherence(parsed),
        instruction_quality=recipe_metrics.instruction_quality(parsed),
        completeness=recipe_metrics.completeness(parsed),
        format_correctness=recipe_metrics.format_correctness(prediction),
        well_formed=recipe_metrics.well_formed(parsed),
        prompt_adherence=recipe_metrics.prompt_adherence(parsed, asked) if asked else None,
    )


def _format(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1e5 else f"{value:.4g}"
