"""Configurations for the plan's tests."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from recipe_exp.config.compose import compose
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.model import ModelConfig, ModelShape
from recipe_exp.config.training import AdamWConfig, LinearScheduleConfig, NoAdapterConfig, TrainingConfig
from recipe_exp.planning.inputs import Inputs, Machine
from recipe_exp.planning.lengths import Lengths, estimated_lengths
from recipe_exp.planning.memory import GIB
from recipe_exp.planning.plan import Plan, build_plan
from recipe_exp.planning.remedies import Setup


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


@cache
def _load_benchmark(name: str) -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def live_bytes() -> ModuleType:
    """The counter of live tensors that benchmarks use."""
    return _load_benchmark("live_bytes")


@pytest.fixture
def planned() -> Callable[..., Plan]:
    """The plan of a configuration on the card that it names, with estimated lengths unless some are given."""

    def plan(config: ExperimentConfig, *, lengths: Lengths | None = None, num_examples: int | None = None) -> Plan:
        precision = "bf16" if config.training.precision == "auto" else config.training.precision
        assert config.hardware.memory_gb is not None
        inputs = Inputs(
            Setup(config.model, config.training, precision, is_compiled=True),
            config.hardware,
            config.data,
            config.evaluation,
            Machine("cuda", "sdpa", int(config.hardware.memory_gb * GIB)),
            lengths or estimated_lengths(config.data, num_examples),
        )
        return build_plan(inputs)

    return plan
