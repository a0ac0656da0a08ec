"""Hydra's groups, and the schema of each of their options."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from recipe_exp.config.base import Section
from recipe_exp.config.data import DataConfig
from recipe_exp.config.evaluation import EvaluationConfig
from recipe_exp.config.hardware import HardwareConfig
from recipe_exp.config.model import ModelConfig
from recipe_exp.config.task import TaskConfig
from recipe_exp.config.tracking import TrackingConfig
from recipe_exp.config.training import AdapterConfig, OptimizerConfig, ScheduleConfig, TrainingConfig

SECTIONS: dict[str, type[Section]] = {
    "model": ModelConfig,
    "data": DataConfig,
    "training": TrainingConfig,
    "hardware": HardwareConfig,
    "evaluation": EvaluationConfig,
    "tracking": TrackingConfig,
}
UNIONS: dict[str, Any] = {
    "task": TaskConfig,
    "training/optimizer": OptimizerConfig,
    "training/schedule": ScheduleConfig,
    "training/adapter": AdapterConfig,
}
GLOBAL_GROUPS = ("experiment", "sweeps", "debug", "local")
"""Groups whose options change keys anywhere, and that may be left out."""
GROUPS = (*SECTIONS, *UNIONS, *GLOBAL_GROUPS)


def schemas() -> Iterator[tuple[str, str, type[Section]]]:
    """Yields (group, name, section) of every schema that the group's YAML files inherit.

    The options of a union differ in their keys, so each has a schema of its own, `KIND_schema`.
    """
    for group, section in SECTIONS.items():
        yield group, "schema", section
    for group, union in UNIONS.items():
        for option in get_args(get_args(union)[0]):
            yield group, f"{option.model_fields['kind'].default}_schema", option
