"""The configuration that a run was stored with, as flat keys: what runs are compared by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.relevance import flatten


def stored_settings(path: Path) -> dict[str, Any]:
    """Returns every key of a run's `config.yaml` by its dotted name, whatever version of recipe_exp wrote it.

    Raises:
        ConfigError: if it is missing or cannot be read.
    """
    return dict(flatten(ExperimentConfig.from_yaml(path).model_dump(mode="json")))
