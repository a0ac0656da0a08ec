"""`data.`: which recipes are learnt from, and how they become examples."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from recipe_exp.config.base import Count, Fraction, Section


class DataConfig(Section):
    """Which recipes are learnt from, and how they become examples."""

    format: Literal["sample", "jsonl"] = "jsonl"
    """`jsonl` reads files; `sample` generates recipes from a seeded grammar."""
    path: str | None = None
    """A file, a folder or a glob of `.jsonl` files, each line a recipe record or an input/output pair."""
    min_quality_score: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Records whose `quality_score` is lower are left out; records without a score are kept."""
    max_source_tokens: Annotated[int, Field(ge=8, le=65535)] = 256
    """Longer prompts are cut to this many tokens; the share that is cut is reported."""
    max_target_tokens: Annotated[int, Field(ge=8, le=65535)] = 512
    """Longer recipes are cut to this many tokens; the share that is cut is reported."""
    validation_fraction: Fraction = 0.02
    """Share of titles held out for validation, chosen by a hash of the normalised title."""
    test_fraction: Fraction = 0.02
    """Share of titles held out for testing, chosen by the same hash."""
    prompt: Annotated[str, Field(min_length=1)] = "title_and_ingredients"
    """Name of a prompt template, or a template with `{title}` and `{ingredients}`. Pairs bring their own prompt."""
    max_examples: Count | None = None
    """Read at most this many valid records; null reads all."""
    max_rejected_fraction: Annotated[float, Field(ge=0.0, le=1.0)] = 0.05
    """A larger share of unreadable or incomplete records stops the run before training."""
    cache_dir: str | None = None
    """Folder of the token caches; null uses `cache/` under `output_dir`."""
