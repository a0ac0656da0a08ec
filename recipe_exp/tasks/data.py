"""The data of a task: opened, or made while a bar shows how far it is, and told in a few facts; without PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.data.tokens.cache import TokenCache, build_or_open_cache
from recipe_exp.data.tokens.tokenizer import RecipeTokenizer
from recipe_exp.tasks.places import cache_dir_of


def open_data(config: ExperimentConfig, console: Console, tokenizer: RecipeTokenizer | None = None) -> TokenCache:
    """Returns the token cache of the configuration, built if there is none yet.

    Args:
        config: data, model and machine.
        console: shows what is being built.
        tokenizer: the tokenizer to use; None takes the pretrained model's, or trains one.
    """
    if tokenizer is None and config.model.pretrained:
        tokenizer = RecipeTokenizer.from_pretrained(config.model.name, config.model.revision)
    with _progress(console) as show:
        return build_or_open_cache(
            config.data,
            cache_dir=cache_dir_of(config),
            tokenizer=tokenizer,
            vocab_size=None if tokenizer is not None else config.model.shape.vocab_size,
            num_workers=config.hardware.num_workers,
            progress=show,
        )


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[str, int], None]]:
    """Shows a bar for each stage, with what it has done and for how long; it goes when all is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        known: dict[str, TaskID] = {}

        def show(stage: str, count: int) -> None:
            if stage not in known:
                for before in bars.tasks:
                    bars.update(before.id, total=max(before.completed, 1), completed=max(before.completed, 1))
                # How many there will be is only known at the end.
                known[stage] = bars.add_task(stage, total=None)
            bars.update(known[stage], completed=count)

        yield show


def describe_data(cache: TokenCache) -> dict[str, Any]:
    """Returns the facts about the data that run.json and the tracker keep."""
    return {
        "fingerprint": cache.fingerprint,
        "prepared": cache.prepared.folder.name,
        "data_fingerprint": cache.data_fingerprint,
        "tokenizer": cache.tokenizer.fingerprint,
        "num_examples": dict(cache.report.num_examples),
        "rejected": dict(cache.report.rejected),
        "num_duplicates": cache.report.num_duplicates,
        "num_leaks": cache.report.num_leaks,
        "num_low_quality": cache.report.num_low_quality,
        "num_other_language": cache.report.num_other_language,
        "truncated_target_fraction": cache.card.splits["train"].truncated_target_fraction,
        "truncated_source_fraction": cache.card.splits["train"].truncated_source_fraction,
        "unknown_token_fraction": cache.card.splits["train"].unknown_token_fraction,
    }
