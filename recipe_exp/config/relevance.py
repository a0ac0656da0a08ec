"""Which keys change the numbers of a run, and which may differ freely."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    "evaluation.",
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

    The machine (`hardware`), the record (`tracking`), what is looked at (`evaluation`, intervals of logging and saving)
    and names may differ freely.
    """
    return {key: value for key, value in flatten(config.model_dump(mode="json")) if not key.startswith(FREE_KEYS)}


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns one line `key: then -> now` for every key whose value differs."""
    keys = [*then, *(key for key in now if key not in then)]
    return [
        f"{key}: {_show(then, key)} -> {_show(now, key)}" for key in keys if then.get(key, ...) != now.get(key, ...)
    ]


def _show(values: Mapping[str, Any], key: str) -> str:
    return show_value(values[key]) if key in values else "absent"
