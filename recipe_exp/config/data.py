"""`data.`: which recipes are learnt from, and how they become examples."""

from __future__ import annotations

import sys
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from recipe_exp.config.base import Count, Fraction, Section, Text
from recipe_exp.config.messages import in_one_line

FILE_FORMATS = ("jsonl", "json", "html", "csv", "parquet", "markdown", "cooklang", "mealmaster", "mastercook")
FORMAT_NAMES = ("auto", *FILE_FORMATS, "huggingface", "sample", "prepared")
MAX_PROMPTS = 32

Weight = Annotated[float, Field(gt=0.0, le=1e6)]


class DataConfig(Section):
    """Which recipes are learnt from, and how they become examples."""

    format: Annotated[str, Field(json_schema_extra={"examples": [*FORMAT_NAMES, "module:function"]})] = "auto"
    """Of the files: `jsonl`, `json` (schema.org, too), `html` (saved pages), `csv`, `parquet`, `markdown`, `cooklang`,
    `mealmaster` or `mastercook`; `auto` finds out for each. `huggingface` reads a dataset of the Hub, `sample`
    generates recipes from a seeded grammar, `prepared` takes the splits of a folder that `task=prepare` wrote as they
    stand. A reader of one's own is `module:function`: it takes a path and yields
    recipes."""
    path: Text | None = None
    """A file, a folder or a glob; with `huggingface` the dataset's name: `OWNER/NAME`, `OWNER/NAME:CONFIG`,
    `...@REVISION`."""
    min_quality_score: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Records whose `quality_score` is lower are left out; one that brings no score gets that of
    `recipe_exp.recipes.quality`."""
    max_source_tokens: Annotated[int, Field(ge=8, le=65535)] = 256
    """Longer prompts are cut to this many tokens; the share that is cut is reported."""
    max_target_tokens: Annotated[int, Field(ge=8, le=65535)] = 512
    """Longer recipes are cut to this many tokens; the share that is cut is reported."""
    validation_fraction: Fraction = 0.02
    """Share of titles held out for validation, chosen by a hash of the normalised title."""
    test_fraction: Fraction = 0.02
    """Share of titles held out for testing, chosen by the same hash."""
    prompt: Annotated[str, Field(min_length=1)] = "title_and_ingredients"
    """Prompt of validation, test and generation, and of training unless `prompts` mixes several: `title`,
    `title_and_ingredients`, `ingredients`, `instruction`, a name in `templates`, or a template with `{title}` and
    `{ingredients}`. Pairs bring their own prompt."""
    prompts: dict[Text, Weight] = Field(default_factory=dict)
    """Prompts of training with relative weights, such as `{title:1,title_and_ingredients:3}`; which of them an example
    has in which epoch is drawn from the seed. Empty trains on `prompt` alone."""
    templates: dict[Text, Text] = Field(default_factory=dict)
    """Templates of one's own by name, for `prompt` and `prompts`; written in a YAML."""
    paraphrase: bool = False
    """Word the built-in prompts in several ways in training, each with an equal share of its prompt's weight."""
    duplicates: Literal["drop", "keep", "report"] = "drop"
    """Of recipes that are the same or nearly so (Jaccard similarity of 0.8 or more) `drop` keeps the best, `keep` keeps
    all, `report` keeps all and lists them. Whatever it is, nothing near a validation or test recipe is trained on."""
    max_examples: Count | None = None
    """Read at most this many valid records, before duplicates are looked for; null reads all."""
    language: Annotated[str, Field(pattern="^[a-z]{2,3}$")] | None = None
    """Keep only recipes whose instructions are in this language (`en`, `de`, ...); null keeps all. Needs the package
    py3langid."""
    max_rejected_fraction: Annotated[float, Field(ge=0.0, le=1.0)] = 0.05
    """A larger share of unreadable or incomplete records stops the run before training."""
    verify: bool = False
    """Read all files again to see whether they are still the same, instead of trusting their size and dates."""
    cache_dir: Text | None = None
    """Folder of prepared data and token caches; null uses `cache/` under `output_dir`."""

    @field_validator("prompts", "templates")
    @classmethod
    def _mappings_are_short_and_in_one_order(cls, value: dict[str, Any]) -> dict[str, Any]:
        if len(value) > MAX_PROMPTS:
            raise ValueError(f"must hold at most {MAX_PROMPTS} entries")
        return dict(sorted(value.items()))

    @field_validator("templates")
    @classmethod
    def _templates_have_plain_names(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not name.isidentifier():
                raise ValueError(f"{in_one_line(name)!r} is no plain name; write it with letters, digits and _")
        return value

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
