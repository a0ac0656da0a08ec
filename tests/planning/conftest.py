"""Configurations for the plan's tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from recipe_exp.config.compose import compose
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.model import ModelConfig, ModelShape
from recipe_exp.config.training import AdamWConfig, LinearScheduleConfig, NoAdapterConfig, TrainingConfig


@cache
def _compose(*overrides: str) -> ExperimentConfig:
    return compose(overrides)


@pytest.fixture
def composed() -> Callable[..., ExperimentConfig]:
    """Composes overrides, each combination once."""
    return _compose


@pytest.fixture
def odd_model() -> Callable[..., ModelConfig]:
    """A small network whose dimensions all differ, so that a formula with two of them swapped is found out."""

    def build(**fields: Any) -> ModelConfig:
        shape = ModelShape(
            vocab_size=331, d_model=48, d_kv=8, d_ff=112, num_layers=3, num_decoder_layers=2, num_heads=5
        )
        return ModelConfig(name="odd", pretrained=False, shape=shape, **fields)

    return build


@pytest.fixture
def training_config() -> Callable[..., TrainingConfig]:
    """Full tuning with AdamW unless told otherwise."""

    def build(**fields: Any) -> TrainingConfig:
        chosen = {"optimizer": AdamWConfig(), "schedule": LinearScheduleConfig(), "adapter": NoAdapterConfig()}
        return TrainingConfig.model_validate(chosen | fields)

    return build
