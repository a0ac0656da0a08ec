"""Every metric by its name."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence

from recipe_exp.metrics import (
    constraints,
    form,
    ingredients,
    originality,
    plausibility,
    prompts,
    sanity,
    step_order,
    steps,
    text,
    title_fit,
)
from recipe_exp.metrics.metric import Direction, Metric, RecipeMetric, Sums, mean

# The metrics of the text are taken of the whole, and of the steps alone where the prompt names ingredients.
TEXT_PARTS = ("", "_instructions")

RECIPE_METRICS: tuple[RecipeMetric, ...] = (
    ingredients.ingredient_coverage,
    ingredients.ingredient_precision,
    ingredients.ingredient_coherence,
    plausibility.quantity_plausibility,
    plausibility.unit_plausibility,
    step_order.step_order,
    steps.instruction_quality,
    form.completeness,
    form.format_correctness,
    form.well_formed,
    form.clean_ending,
    sanity.temperature_time_sanity,
    title_fit.title_fit,
    originality.originality,
    prompts.prompt_adherence,
    constraints.constraint_adherence,
)


def _definition(function: Callable[..., object]) -> str:
    return inspect.getdoc(function) or ""


def _metric(
    name: str,
    definition: str,
    direction: Direction,
    *,
    low: float = 0.0,
    high: float = 1.0,
    is_reference_free: bool = False,
    value: Callable[[Sums], float] = mean,
) -> Metric:
    return Metric(name, definition, direction, low, high, is_reference_free, value)


def _loss_metrics() -> list[Metric]:
    loss = "Cross-entropy a target token in nats, every token weighing the same, without label smoothing."
    return [
        _metric("loss", loss, "lower", high=math.inf),
        _metric("perplexity", _definition(text.perplexity), "lower", low=1.0, high=math.inf),
    ]


def _text_metrics(part: str) -> list[Metric]:
    suffix = " Of the steps alone, over the examples whose prompt names ingredients." if part else ""
    rouge = _definition(text.rouge_scores) + suffix
    return [
        _metric(f"bleu{part}", _definition(text.bleu) + suffix, "higher", high=100.0, value=text.bleu),
        _metric(f"chrf{part}", _definition(text.chrf) + suffix, "higher", high=100.0, value=text.chrf),
        *(_metric(f"{name}{part}", rouge, "higher") for name in text.ROUGE_NAMES),
        _metric(
            f"length_ratio{part}",
            _definition(text.length_ratio) + suffix,
            "nearest to 1",
            high=math.inf,
            value=text.length_ratio,
        ),
    ]


def _surface_metrics() -> list[Metric]:
    distinct = _definition(text.distinct)
    truncated = "Share of predictions that break off: 1 - `clean_ending`."
    return [
        _metric("distinct_1", distinct, "higher", is_reference_free=True),
        _metric("distinct_2", distinct, "higher", is_reference_free=True),
        _metric("repetition", _definition(text.repetition), "lower", is_reference_free=True),
        _metric("truncation_rate", truncated, "lower", is_reference_free=True),
    ]


def _by_name(metrics: Sequence[Metric]) -> Mapping[str, Metric]:
    return {metric.name: metric for metric in metrics}


METRICS: Mapping[str, Metric] = _by_name(
    [
        *_loss_metrics(),
        *(metric for part in TEXT_PARTS for metric in _text_metrics(part)),
        *_surface_metrics(),
        *(metric.describe() for metric in RECIPE_METRICS),
    ]
)
