"""The name of a run that was given none: what differs from the defaults."""

from __future__ import annotations

from pathlib import Path

from recipe_exp.config.compose import compose, group_options
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.messages import show_value
from recipe_exp.config.relevance import numbers_relevant
from recipe_exp.config.training import LoraConfig

# What fits into a folder's name and a column of the tracker.
_MAX_CHARACTERS = 60
_NAMED_BY_THE_MODEL = ("model.name", "model.pretrained", "model.shape.", "training.adapter.kind", "data.format")


def name_of(config: ExperimentConfig) -> str:
    """Returns `run_name`, or the model, its adapter and the few keys that differ from what these alone would give."""
    if config.run_name:
        return config.run_name
    model = config.model.name.rpartition("/")[2].replace("-", "_")
    is_lora = isinstance(config.training.adapter, LoraConfig)
    choices = [f"model={model}"] if model in group_options()["model"] else []
    usual = numbers_relevant(compose([*choices, "training=lora"] if is_lora else choices))
    name = f"{model} lora" if is_lora else model
    for key, value in numbers_relevant(config).items():
        if usual.get(key) != value and not key.startswith(_NAMED_BY_THE_MODEL):
            longer = f"{name} {key.rpartition('.')[2]}={_short(key, value)}"
            name = longer if len(longer) <= _MAX_CHARACTERS else name
    return name


def _short(key: str, value: object) -> str:
    return Path(value).name if key == "data.path" and isinstance(value, str) else show_value(value)
