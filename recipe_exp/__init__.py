"""Fine-tuning T5 on recipes: configuration, training, evaluation and generation, each one call.

Names are imported when they are first used, so that composing a configuration loads no PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recipe_exp.config.compose import compose
    from recipe_exp.config.experiment import ExperimentConfig
    from recipe_exp.data.loader import WindowLoader
    from recipe_exp.data.plan import WindowPlan, plan_micro_batches
    from recipe_exp.data.sample import sample_recipes
    from recipe_exp.data.tokens.cache import TokenCache, build_or_open_cache
    from recipe_exp.data.tokens.tokenizer import RecipeTokenizer
    from recipe_exp.errors import RecipeExpError
    from recipe_exp.metrics import compute_metrics
    from recipe_exp.recipes import Recipe, parse_ingredient, parse_recipe, render_markdown
    from recipe_exp.tasks.evaluate import evaluate
    from recipe_exp.tasks.export import export
    from recipe_exp.tasks.merge import merge
    from recipe_exp.tasks.train import TrainResult, train
    from recipe_exp.tasks.trained.loading import load
    from recipe_exp.training.callbacks import Callback

_MODULES = {
    "Callback": "recipe_exp.training.callbacks",
    "ExperimentConfig": "recipe_exp.config.experiment",
    "Recipe": "recipe_exp.recipes",
    "RecipeExpError": "recipe_exp.errors",
    "RecipeTokenizer": "recipe_exp.data.tokens.tokenizer",
    "TokenCache": "recipe_exp.data.tokens.cache",
    "TrainResult": "recipe_exp.tasks.train",
    "WindowLoader": "recipe_exp.data.loader",
    "WindowPlan": "recipe_exp.data.plan",
    "build_or_open_cache": "recipe_exp.data.tokens.cache",
    "compose": "recipe_exp.config.compose",
    "compute_metrics": "recipe_exp.metrics",
    "evaluate": "recipe_exp.tasks.evaluate",
    "export": "recipe_exp.tasks.export",
    "load": "recipe_exp.tasks.trained.loading",
    "merge": "recipe_exp.tasks.merge",
    "parse_ingredient": "recipe_exp.recipes",
    "parse_recipe": "recipe_exp.recipes",
    "plan_micro_batches": "recipe_exp.data.plan",
    "render_markdown": "recipe_exp.recipes",
    "sample_recipes": "recipe_exp.data.sample",
    "train": "recipe_exp.tasks.train",
}

__all__ = [
    "Callback",
    "ExperimentConfig",
    "Recipe",
    "RecipeExpError",
    "RecipeTokenizer",
    "TokenCache",
    "TrainResult",
    "WindowLoader",
    "WindowPlan",
    "build_or_open_cache",
    "compose",
    "compute_metrics",
    "evaluate",
    "export",
    "load",
    "merge",
    "parse_ingredient",
    "parse_recipe",
    "plan_micro_batches",
    "render_markdown",
    "sample_recipes",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
