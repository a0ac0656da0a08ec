"""Folders that hold a model and no run: what was published, a checkpoint, or a plain T5 of anybody's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from recipe_exp.config.compose import compose
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.messages import show_path
from recipe_exp.data.prompts import find_template
from recipe_exp.errors import ModelError
from recipe_exp.files import read_regular_file

SETTINGS = "recipe_exp.json"
"""Stands in a published folder and says how its model is to be asked."""

_MAX_BYTES = 2**20
_EVALUATION_KEYS = ("max_new_tokens", "num_beams")


def write_settings(folder: Path, config: ExperimentConfig) -> None:
    """Writes how a run's model was asked, which its weights do not tell; nothing else of the configuration."""
    settings = {
        "prompt": find_template(config.data.prompt, config.data.templates),
        "max_source_tokens": config.data.max_source_tokens,
        **{key: getattr(config.evaluation, key) for key in _EVALUATION_KEYS},
    }
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def config_of(folder: Path) -> ExperimentConfig:
    """Returns the configuration with which a folder's model is used: its own settings, its run's, or the defaults.

    Raises:
        ModelError: if its settings are damaged.
    """
    runs = (parent / "config.yaml" for parent in folder.absolute().parents[:2])
    of_run = next((path for path in runs if path.is_file() and path.with_name("run.json").is_file()), None)
    config = ExperimentConfig.from_yaml(of_run) if of_run is not None else compose()
    if not (folder / SETTINGS).is_file():
        return config
    try:
        stored: dict[str, Any] = json.loads(read_regular_file(folder / SETTINGS, _MAX_BYTES))
        content: dict[str, Any] = config.model_dump(mode="json")
        content["data"] |= {"prompt": stored["prompt"], "max_source_tokens": stored["max_source_tokens"]}
        content["data"] |= {"templates": {}, "prompts": {}, "paraphrase": False}
        content["evaluation"] |= {key: stored[key] for key in _EVALUATION_KEYS}
        return ExperimentConfig.from_data(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(
            f"{show_path(folder / SETTINGS)}: damaged; copy the folder again, or remove this file"
        ) from None
