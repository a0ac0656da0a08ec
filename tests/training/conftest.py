"""A small split of tokens, a network that is built in milliseconds, and processes that may be killed."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch

from recipe_exp.config.model import ModelShape
from recipe_exp.config.training import AdamWConfig, LinearScheduleConfig, NoAdapterConfig, TrainingConfig
from recipe_exp.data.tokens.token_files import TokenSplit, token_bytes
from recipe_exp.hardware.accelerator import create_accelerator
from recipe_exp.models import load
from recipe_exp.models.sequence_loss import SequenceLoss
from recipe_exp.training.callbacks import Callback
from recipe_exp.training.guard import RollbackError
from recipe_exp.training.lifecycle import Lifecycle
from recipe_exp.training.optimizers import build_optimizer
from recipe_exp.training.state import StepResult
from recipe_exp.training.step import TrainingStep
from recipe_exp.training.trainer import RunLength, Trainer

torch.set_num_threads(1)

NUM_EXAMPLES = 24
SHAPE = ModelShape(vocab_size=60, d_model=16, d_kv=4, d_ff=24, num_layers=1, num_decoder_layers=1, num_heads=2)

StepBuilder = Callable[..., TrainingStep]
Fork = Callable[[Callable[[], None]], int]


@pytest.fixture(scope="session")
def split(tmp_path_factory: pytest.TempPathFactory) -> TokenSplit:
    """Examples of very different lengths, so that a mean of means would show."""
    folder = tmp_path_factory.mktemp("tokens")
    rng = np.random.default_rng(11)

    def texts(longest: int) -> list[list[int]]:
        return [[*rng.integers(3, SHAPE.vocab_size, length).tolist(), 1] for length in rng.integers(1, longest, 24)]

    for name, content in token_bytes([texts(14)], texts(40), 0).items():
        (folder / name).write_bytes(content)
    return TokenSplit(folder, pad_id=0)


def training_config(**settings: Any) -> TrainingConfig:
    sections = {"optimizer": AdamWConfig(), "schedule": LinearScheduleConfig(), "adapter": NoAdapterConfig()}
    return TrainingConfig.model_validate({**sections, **settings})


@pytest.fixture
def build_step() -> StepBuilder:
    """Builds the arithmetic over a network of fixed weights."""

    def build(
        *,
        precision: str = "fp32",
        dropout: float = 0.0,
        max_grad_norm: float | None = None,
        label_smoothing: float = 0.0,
        seed: int = 0,
        learning_rate: float = 0.01,
    ) -> TrainingStep:
        accelerator = create_accelerator(device="cpu", precision=precision, num_threads=1)
        torch.manual_seed(0)
        network = load.from_shape(SHAPE, dtype=torch.float32)
        load.set_dropout(network, dropout)
        loss = SequenceLoss(network).train()
        model = accelerator.prepare(loss)
        optimizer = build_optimizer(loss, training_config(learning_rate=learning_rate))
        return TrainingStep(
            model,
            optimizer,
            accelerator,
            lambda step: learning_rate / (step + 1),
            max_grad_norm=max_grad_norm,
            label_smoothing=label_smoothing,
            seed=seed,
        )

    return build


@pytest.fixture
def fork() -> Fork:
    """Runs a function in a process of its own and returns its exit code, negative for a signal."""

    def run(function: Callable[[], None]) -> int:
        child = os.fork()
        if child == 0:
            try:
                # The pool of threads that PyTorch may have here does not live on in the child.
                torch.set_num_threads(1)
                function()
            except BaseException:
                traceback.print_exc()
                os._exit(99)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    return run


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


def result_of(
    step: int, *, loss: float = 2.0, num_target_tokens: int = 10, is_finite: bool = True, num_examples: int = 2
) -> StepResult:
    """What a step would report, without the arithmetic."""
    return StepResult(
        step=step,
        loss_sum=torch.tensor(loss * num_target_tokens),
        grad_norm=torch.tensor(1.5),
        is_finite=torch.tensor(is_finite),
        learning_rate=0.01,
        num_examples=num_examples,
        num_target_tokens=num_target_tokens,
        num_source_tokens=6,
        num_computed_tokens=20,
    )


TrainerBuilder = Callable[..., Trainer]


@pytest.fixture
def build_trainer() -> TrainerBuilder:
    """Builds the loop over steps that only report; `outcomes` says what, by step counted from 1."""

    def build(
        *callbacks: Callback,
        total_steps: int = 6,
        steps_per_epoch: int = 4,
        outcomes: Mapping[int, Mapping[str, Any] | BaseException] = MappingProxyType({}),
        lifecycle: Lifecycle | None = None,
        restore: Callable[[Trainer], None] | None = None,
        roll_back: Callable[[Trainer, RollbackError], None] | None = None,
    ) -> Trainer:
        def step(window: Any) -> StepResult:
            outcome = outcomes.get(window + 1, {})
            if isinstance(outcome, BaseException):
                raise outcome
            return result_of(window + 1, **outcome)

        def windows(start: int) -> Generator[Any]:
            yield from range(start, total_steps)

        length = RunLength(total_steps, steps_per_epoch)
        return Trainer(step, windows, length, callbacks, lifecycle or Lifecycle(), restore, roll_back)

    return build
