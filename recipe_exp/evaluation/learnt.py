"""What metrics know of recipes: learnt once from the training split of prepared data, and kept beside the caches."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from recipe_exp.data.preparation.prepared import PreparedData
from recipe_exp.data.split import Split
from recipe_exp.errors import DataError
from recipe_exp.files import file_lock
from recipe_exp.metrics import Knowledge
from recipe_exp.metrics.knowledge import FORMAT_VERSION
from recipe_exp.recipes import Recipe, parse_recipe

_FINGERPRINT_CHARACTERS = 16


def knowledge_of(prepared: PreparedData, cache_dir: Path) -> Knowledge:
    """Returns what the training split teaches; read from `cache_dir` if it was learnt before.

    Args:
        prepared: the splits.
        cache_dir: the folder of all caches.

    Raises:
        DataError: the training split is empty.
    """
    name = f"knowledge-{prepared.data_fingerprint[:_FINGERPRINT_CHARACTERS]}-{FORMAT_VERSION}.json"
    path = cache_dir / name
    with file_lock(path.with_suffix(".lock")):
        if path.exists():
            try:
                return Knowledge.load(path)
            except DataError:
                path.unlink()
        knowledge = Knowledge.fit(recipes_of(prepared, "train"))
        aside = path.with_suffix(f".{os.getpid()}.tmp")
        knowledge.save(aside)
        aside.replace(path)
    return knowledge


def recipes_of(prepared: PreparedData, split: Split) -> Iterator[Recipe]:
    """Yields the recipes of a split in order; of an input/output pair the recipe that its output is."""
    for record in prepared.records(split):
        content = record.content
        yield content if isinstance(content, Recipe) else parse_recipe(content.target_text)
