"""`data.`: which recipes are learnt from, and how they become examples."""

from __future__ import annotations

import sys
from difflib import get_close_matches
from typing import Annotated

from pydantic import Field, field_validator

from recipe_exp.config.base import Count, Fraction, Section, Text

FILE_FORMATS = ("jsonl", "json", "html", "csv", "parquet", "markdown", "cooklang", "mealmaster", "mastercook")
FORMAT_NAMES = ("auto", *FILE_FORMATS, "huggingface", "sample")


class DataConfig(Section):
    """Which recipes are learnt from, and how they become examples."""

    format: Annotated[str, Field(json_schema_extra={"examples": [*FORMAT_NAMES, "module:function"]})] = "auto"
    """Of the files: `jsonl`, `json` (schema.org, too), `html` (saved pages), `csv`, `parquet`, `markdown`, `cooklang`,
    `mealmaster` or `mastercook`; `auto` finds out for each. `huggingface` reads a dataset of the Hub, `sample`
    generates recipes from a seeded grammar. A reader of one's own is `module:function`: it takes a path and yields
    recipes."""
    path: Text | None = None
    """A file, a folder or a glob; with `huggingface` the dataset's name: `OWNER/NAME`, `OWNER/NAME:CONFIG`,
    `...@REVISION`."""
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
    language: Annotated[str, Field(pattern="^[a-z]{2,3}$")] | None = None
    """Keep only recipes whose instructions are in this language (`en`, `de`, ...); null keeps all. Needs the package
    py3langid."""
    max_rejected_fraction: Annotated[float, Field(ge=0.0, le=1.0)] = 0.05
    """A larger share of unreadable or incomplete records stops the run before training."""
    cache_dir: Text | None = None
    """Folder of the token caches; null uses `cache/` under `output_dir`."""

    @field_validator("format")
    @classmethod
    def _format_is_known_or_importable(cls, value: str) -> str:
        module, colon, attribute = value.partition(":")
        is_importable = all(part.isidentifier() for part in module.split(".")) and attribute.isidentifier()
        if value not in FORMAT_NAMES and not is_importable:
            close = get_close_matches(value[:100], FORMAT_NAMES, n=1)
            remedy = f"did you mean {close[0]}?" if close and not colon else f"choose from {', '.join(FORMAT_NAMES)}"
            raise ValueError(f"no such format; {remedy} (or module:function, a reader of one's own)")
        if colon and module.partition(".")[0] in sys.stdlib_module_names:
            raise ValueError(f"{module} is a part of Python and reads no recipes; name a module of your own")
        return value
