"""Which keys change the numbers of a run, and which may differ freely."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.messages import show_value

FREE_KEYS = (
    "task.",
    "run_name",
    "description",
    "tags",
    "output_dir",
    "resume",
    "tracking.",
    "hardware.",
    "evaluation.every_n_steps",
    "evaluation.samples_every_n_steps",
    "evaluation.validation_prompts",
    "model.attention",
    "model.gradient_checkpointing",
    "data.cache_dir",
    "data.max_rejected_fraction",
    "training.log_every_n_steps",
    "training.checkpoint_every_n_steps",
    "training.keep_best_n_checkpoints",
    "training.stop_after_hours",
    "training.callbacks",
)


def flatten(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, value) of nested plain data."""
    for name, value in data.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def numbers_relevant(config: ExperimentConfig) -> dict[str, Any]:
    """Returns the keys that change a run's numbers, by dotted name.

    The machine (`hardware`, how attention is computed), the record (`tracking`), intervals of logging, saving and
    evaluating, and names may differ freely.
    """
    return _relevant(flatten(config.model_dump(mode="json")))


def overlay(stored: ExperimentConfig, given: ExperimentConfig, usual: ExperimentConfig) -> ExperimentConfig:
    """Returns a stored configuration with what a command says beside it: the keys that differ from the usual ones.

    Args:
        stored: of a run.
        given: what the command composed to.
        usual: what a command without any key composes to.

    Raises:
        ConfigError: if the given keys do not go together with the stored ones.
    """
    data = stored.model_dump(mode="json")
    for key, value in _given(given, usual).items():
        *path, last = key.split(".")
        section = data
        for part in path:
            section = section.setdefault(part, {})
        section[last] = value
    return ExperimentConfig.from_data(data)


def changes(stored: ExperimentConfig, given: ExperimentConfig, usual: ExperimentConfig) -> list[str]:
    """Returns `key: then -> now` for every numbers-relevant key in which `overlay` would differ from the stored one."""
    then = numbers_relevant(stored)
    return differences(then, then | _relevant(_given(given, usual).items()))


def _given(given: ExperimentConfig, usual: ExperimentConfig) -> dict[str, Any]:
    before = dict(flatten(usual.model_dump(mode="json")))
    after = flatten(given.model_dump(mode="json"))
    return {key: value for key, value in after if key not in before or before[key] != value}


def _relevant(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in items if not key.startswith(FREE_KEYS)}


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns one line `key: then -> now` for every key whose value differs."""
    keys = [*then, *(key for key in now if key not in then)]
    return [
        f"{key}: {_show(then, key)} -> {_show(now, key)}" for key in keys if then.get(key, ...) != now.get(key, ...)
    ]


def _show(values: Mapping[str, Any], key: str) -> str:
    return show_value(values[key]) if key in values else "absent"
