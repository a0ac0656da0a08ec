"""The name of a run that was given none: what differs from the defaults."""

from __future__ import annotations

import os
from pathlib import Path

from recipe_exp.config.compose import compose, group_options
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.messages import show_value
from recipe_exp.config.relevance import numbers_relevant
from recipe_exp.config.training import LoraConfig
from recipe_exp.tracking import RunFolder
from recipe_exp.tracking.record_file import RECORD_NAME

# What fits into a folder's name and a column of the tracker.
_MAX_CHARACTERS = 60
_PATHS = ("data.path", "training.adapter.start_from")
_NAMED_BY_THE_MODEL = ("model.name", "model.pretrained", "model.shape.", "training.adapter.kind", "data.format")


def name_of(config: ExperimentConfig) -> str:
    """Returns `run_name`, or the model, its adapter and the few keys that differ from what these alone would give."""
    if config.run_name:
        return config.run_name
    model = _model_name(config.model.name).replace("-", "_")
    adapter = config.training.adapter
    option = _option(adapter) if isinstance(adapter, LoraConfig) else None
    choices = [f"model={model}"] if model in group_options()["model"] else []
    usual = numbers_relevant(compose([*choices, f"training={option}"] if option else choices))
    name = f"{model} {option}" if option else model
    for key, value in numbers_relevant(config).items():
        if usual.get(key) != value and not key.startswith(_NAMED_BY_THE_MODEL):
            longer = f"{name} {key.rpartition('.')[2]}={_short(key, value)}"
            name = longer if len(longer) <= _MAX_CHARACTERS else name
    return name


def _model_name(name: str) -> str:
    """The last part of a path or of a name on the hub; the model of a run is called by the run's id."""
    folder = Path(name).parent
    is_of_run = folder.is_absolute() and os.path.isfile(folder / RECORD_NAME)  # noqa: PTH113 - pathlib raises if long
    return RunFolder.open(folder).run_id if is_of_run else name.rpartition("/")[2]


def _option(lora: LoraConfig) -> str:
    """The option of `training` that an adapter is nearest to."""
    if lora.quantization != "none":
        return "qlora"
    is_so = {
        "pissa": lora.init == "pissa",
        "dora": lora.dora,
        "rslora": lora.rslora,
        "lora_plus": lora.learning_rate_ratio is not None,
    }
    return next((option for option, chosen in is_so.items() if chosen), "lora")


def _short(key: str, value: object) -> str:
    return Path(value).name if key in _PATHS and isinstance(value, str) else show_value(value)
