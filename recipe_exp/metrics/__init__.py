"""Text and recipe metrics, usable alone: `print(compute_metrics(references, predictions))`."""

from __future__ import annotations

from recipe_exp.metrics.compute import (
    ExampleStatistics,
    MetricAccumulator,
    MetricResult,
    accumulate,
    compute_metrics,
    example_statistics,
    ingredients_in_prompt,
)
from recipe_exp.metrics.knowledge import Knowledge
from recipe_exp.metrics.losses import TokenLoss
from recipe_exp.metrics.metric import Fault, Metric, RecipeMetric
from recipe_exp.metrics.reading import Reading
from recipe_exp.metrics.registry import METRICS, RECIPE_METRICS
from recipe_exp.metrics.text import bleu_signature, chrf_signature, perplexity
from recipe_exp.recipes import parse_ingredient, parse_recipe

__all__ = [
    "METRICS",
    "RECIPE_METRICS",
    "ExampleStatistics",
    "Fault",
    "Knowledge",
    "Metric",
    "MetricAccumulator",
    "MetricResult",
    "Reading",
    "RecipeMetric",
    "TokenLoss",
    "accumulate",
    "bleu_signature",
    "chrf_signature",
    "compute_metrics",
    "example_statistics",
    "ingredients_in_prompt",
    "parse_ingredient",
    "parse_recipe",
    "perplexity",
]
