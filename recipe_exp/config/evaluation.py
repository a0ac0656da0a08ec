"""`evaluation.`: what is measured on held-out recipes, how often, and what ranks checkpoints."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from recipe_exp.config.base import Count, Section, Strings

EvaluationMetric = Literal[
    "eval/loss",
    "eval/perplexity",
    "eval/bleu",
    "eval/rouge1",
    "eval/rouge2",
    "eval/rougeL",
    "eval/ingredient_coherence",
    "eval/instruction_quality",
    "eval/completeness",
    "eval/format_correctness",
    "eval/well_formed",
    "eval/prompt_adherence",
]
LOWER_IS_BETTER = frozenset({"eval/loss", "eval/perplexity"})


class EvaluationConfig(Section):
    """What is measured on held-out recipes, how often, and what ranks checkpoints."""

    every_n_steps: Count | None = 500
    """Steps between two evaluations; null evaluates only at the end."""
    max_examples: Count = 500
    """Held-out examples whose loss is measured."""
    max_generated_examples: Count = 50
    """Held-out examples for which a recipe is generated and scored; the first ones of the same order."""
    max_new_tokens: Annotated[int, Field(ge=1, le=65535)] = 512
    """Longest generated recipe."""
    num_beams: Count = 1
    """Beams of the search; 1 is greedy."""
    temperature: Annotated[float, Field(ge=0.0, le=100.0)] = 0.0
    """Tokens are drawn from the logits divided by it; 0 draws none and searches for the likeliest."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Draws only from the likeliest tokens that together have this share."""
    sampling_seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    """Of the draws; each example has draws of its own, whatever is written beside it."""
    untuned_base: bool = False
    """Have the pretrained model write the same recipes before it is tuned, as an anchor of the report."""
    samples_every_n_steps: Count | None = None
    """Steps between entries of `samples.jsonl` beside those of every evaluation; null adds none."""
    validation_prompts: Strings = ()
    """Prompts of one's own for the samples: raw text, or `title=...; ingredients=..., ...`."""
    best_metric: EvaluationMetric = "eval/loss"
    """The metric that ranks checkpoints and stops early."""
    best_mode: Literal["min", "max"] = "min"
    """Whether a lower or a higher `best_metric` is better."""
