"""Text and recipe metrics, usable alone: `print(compute_metrics(references, predictions))`."""

from __future__ import annotations

from recipe_exp.metrics.compute import (
    MetricAccumulator,
    RecipeMetrics,
    RecipeScores,
    accumulate,
    compute_metrics,
)
from recipe_exp.metrics.recipe import (
    completeness,
    format_correctness,
    ingredient_coherence,
    ingredient_coverage,
    ingredient_precision,
    instruction_quality,
    is_truncated,
    prompt_adherence,
    well_formed,
)
from recipe_exp.metrics.text import (
    BleuStatistics,
    bleu,
    bleu_signature,
    bleu_statistics,
    perplexity,
    rouge,
    rouge_scores,
)

__all__ = [
    "BleuStatistics",
    "MetricAccumulator",
    "RecipeMetrics",
    "RecipeScores",
    "accumulate",
    "bleu",
    "bleu_signature",
    "bleu_statistics",
    "completeness",
    "compute_metrics",
    "format_correctness",
    "ingredient_coherence",
    "ingredient_coverage",
    "ingredient_precision",
    "instruction_quality",
    "is_truncated",
    "perplexity",
    "prompt_adherence",
    "rouge",
    "rouge_scores",
    "well_formed",
]
