"""From files of recipes to batches: readers, corpus, token cache, plan and loader.

Names are imported when they are first used, so that whoever needs the plan does not wait for PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recipe_exp.data.example import Example
    from recipe_exp.data.loader import (
        IGNORED_LABEL,
        MicroBatch,
        Window,
        WindowLoader,
        evaluation_batches,
        make_micro_batch,
        make_window,
    )
    from recipe_exp.data.plan import WindowPlan, plan_micro_batches
    from recipe_exp.data.preparation.corpus_report import CorpusReport
    from recipe_exp.data.prompts import (
        TEMPLATES,
        PromptMix,
        find_prompts,
        find_template,
        make_example,
        parse_prompt,
    )
    from recipe_exp.data.readers.files import find_files
    from recipe_exp.data.readers.jsonl import read_jsonl
    from recipe_exp.data.sample import sample_recipes
    from recipe_exp.data.split import SPLITS, Split, split_of
    from recipe_exp.data.tokens.cache import TokenCache, build_or_open_cache, open_or_prepare
    from recipe_exp.data.tokens.cache_card import CacheCard, SplitCard
    from recipe_exp.data.tokens.token_files import TokenSplit
    from recipe_exp.data.tokens.tokenizer import RecipeTokenizer
    from recipe_exp.data.tokens.vocabulary import train_unigram

__all__ = [
    "IGNORED_LABEL",
    "SPLITS",
    "TEMPLATES",
    "CacheCard",
    "CorpusReport",
    "Example",
    "MicroBatch",
    "PromptMix",
    "RecipeTokenizer",
    "Split",
    "SplitCard",
    "TokenCache",
    "TokenSplit",
    "Window",
    "WindowLoader",
    "WindowPlan",
    "build_or_open_cache",
    "evaluation_batches",
    "find_files",
    "find_prompts",
    "find_template",
    "make_example",
    "make_micro_batch",
    "make_window",
    "open_or_prepare",
    "parse_prompt",
    "plan_micro_batches",
    "read_jsonl",
    "sample_recipes",
    "split_of",
    "train_unigram",
]

_NAMES_BY_MODULE = {
    "tokens.cache": ("TokenCache", "build_or_open_cache", "open_or_prepare"),
    "tokens.cache_card": ("CacheCard", "SplitCard"),
    "preparation.corpus_report": ("CorpusReport",),
    "example": ("Example",),
    "loader": (
        "IGNORED_LABEL",
        "MicroBatch",
        "Window",
        "WindowLoader",
        "evaluation_batches",
        "make_micro_batch",
        "make_window",
    ),
    "plan": ("WindowPlan", "plan_micro_batches"),
    "prompts": ("TEMPLATES", "PromptMix", "find_prompts", "find_template", "make_example", "parse_prompt"),
    "readers.files": ("find_files",),
    "readers.jsonl": ("read_jsonl",),
    "sample": ("sample_recipes",),
    "split": ("SPLITS", "Split", "split_of"),
    "tokens.token_files": ("TokenSplit",),
    "tokens.tokenizer": ("RecipeTokenizer",),
    "tokens.vocabulary": ("train_unigram",),
}
_MODULE_OF = {name: module for module, names in _NAMES_BY_MODULE.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value
