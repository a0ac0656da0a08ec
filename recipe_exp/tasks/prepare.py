"""`task=prepare`: the token cache that training opens, and nothing else."""

from __future__ import annotations

from rich.console import Console

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.tasks import summary
from recipe_exp.tasks.building import open_data


def run(config: ExperimentConfig) -> int:
    """Builds the cache, or opens the one that is there, and says what is in it and where it lies."""
    console = Console(soft_wrap=True, markup=False)
    cache = open_data(config, console)
    summary.print_data(console, cache)
    console.print(f"cache {cache.folder}", highlight=False)
    return 0
