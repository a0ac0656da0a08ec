"""Updates within the backward pass: the same numbers as after it, and no gradient of the whole model."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from benchmarks.live_bytes import LiveBytes, RealStep, made_up_batch
from recipe_exp.config.model import ModelConfig, ModelShape
from recipe_exp.config.training import (
    AdafactorConfig,
    AdamWConfig,
    LinearScheduleConfig,
    NoAdapterConfig,
    TrainingConfig,
)
from recipe_exp.data.loader import Window
from recipe_exp.training.step import InBackwardStep

SHAPE = ModelShape(vocab_size=90, d_model=64, d_kv=16, d_ff=160, num_layers=6, num_decoder_layers=6, num_heads=4)
SOURCE, TARGET = 6, 9


def training(*, in_backward: bool, dtype: str = "fp32", kind: str = "adafactor") -> TrainingConfig:
    return TrainingConfig(
        optimizer=AdafactorConfig() if kind == "adafactor" else AdamWConfig(),
        schedule=LinearScheduleConfig(),
        adapter=NoAdapterConfig(),
        learning_rate=0.01,
        weight_decay=0.1,
        max_grad_norm=None,
        weights_dtype=dtype,
        update_in_backward=in_backward,
    )


def build(settings: TrainingConfig, folder: Path, *, is_checkpointed: bool = False) -> RealStep:
    torch.manual_seed(0)
    model = ModelConfig(
        name="small", pretrained=False, dropout=0.1, gradient_checkpointing=is_checkpointed, shape=SHAPE
    )
    precision = "bf16" if settings.weights_dtype == "bf16" else "fp32"
    return RealStep(model, settings, precision=precision, base_folder=folder / "base")


def learn(step: RealStep, num_steps: int) -> dict[str, torch.Tensor]:
    for seed in range(num_steps):
        torch.manual_seed(seed)
        step.run(4, SOURCE, TARGET)
    return {name: parameter.detach().clone() for name, parameter in step.loss.named_parameters()}


@pytest.mark.parametrize("is_checkpointed", [False, True])
@pytest.mark.parametrize("kind", ["adafactor", "adamw"])
def test_the_update_is_that_of_the_plain_optimizer(tmp_path: Path, kind: str, is_checkpointed: bool) -> None:
    plain = build(training(in_backward=False, kind=kind), tmp_path, is_checkpointed=is_checkpointed)
    fused = build(training(in_backward=True, kind=kind), tmp_path, is_checkpointed=is_checkpointed)
    assert isinstance(fused.step, InBackwardStep)
    expected, found = learn(plain, 4), learn(fused, 4)
    start = build(training(in_backward=True, kind=kind), tmp_path).loss.state_dict()
    for name, weight in found.items():
        change = (expected[name] - start[name]).norm()
        assert change > 0
        # The sums of the norm and of the moments are taken in another order.
        assert (weight - expected[name]).norm() <= 2e-4 * change, name


def test_the_norm_is_that_of_the_whole_gradient(tmp_path: Path) -> None:
    norms = []
    for in_backward in (False, True):
        step = build(training(in_backward=in_backward), tmp_path)
        torch.manual_seed(0)
        norms.append(float(step.run(4, SOURCE, TARGET).grad_norm))
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_only_the_gradients_of_a_layer_are_there_at_the_same_time(tmp_path: Path, is_checkpointed: bool) -> None:
    step = build(training(in_backward=True, dtype="bf16"), tmp_path, is_checkpointed=is_checkpointed)
    learn(step, 1)
    part = made_up_batch(SHAPE.vocab_size, 1, SOURCE, TARGET)
    with LiveBytes(step.live_tensors()) as live:
        before = live.now
        with torch.autocast("cpu", torch.bfloat16):
            value = step.loss(part)
        kept = live.now - before
        del value
        live.peak = live.now
        torch.manual_seed(1)
        step.run(1, SOURCE, TARGET)
    layer = 2 * (8 * SHAPE.d_model * SHAPE.num_heads * SHAPE.d_kv + 3 * SHAPE.d_model * SHAPE.d_ff)
    # An update takes a chunk of a weight in fp32 several times over; every weight here is smaller than a chunk.
    update = 6 * 4 * max(parameter.numel() for parameter in step.loss.parameters())
    recomputed = 100_000 if is_checkpointed else 0
    weights = sum(2 * parameter.numel() for parameter in step.loss.parameters())
    found = live.peak - before
    assert found < kept + layer + update + recomputed
    assert found < weights


def test_a_loss_that_is_not_finite_changes_nothing(tmp_path: Path) -> None:
    step = build(training(in_backward=True), tmp_path)
    learn(step, 2)
    head = step.loss.network.lm_head.weight
    with torch.no_grad():
        head[0, 0] = float("inf")
    before = [tensor.detach().clone() for tensor in step.live_tensors()]
    learn(step, 1)
    after = step.live_tensors()
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_a_window_of_several_micro_batches_is_refused(tmp_path: Path) -> None:
    step = build(training(in_backward=True), tmp_path)
    with pytest.raises(ValueError, match="2 micro-batches, not one"):
        step.run(2, SOURCE, TARGET, num_micro_batches=2)


def test_rounding_is_repeatable_and_differs_from_step_to_step(tmp_path: Path) -> None:
    outcomes = [learn(build(training(in_backward=True, dtype="bf16"), tmp_path), 2) for _ in range(2)]
    assert all(torch.equal(one, other) for one, other in zip(*(each.values() for each in outcomes), strict=True))
    step = build(training(in_backward=True, dtype="bf16"), tmp_path)
    seeds = []
    step.step._chunked.seed_rounding = seeds.append
    for number in range(2):
        window = next(iter([Window(number, 0, 1, 1, 1, 2, (made_up_batch(SHAPE.vocab_size, 1, 2, 2),))]))
        step.step(window)
    assert len(set(seeds)) == 2


def test_weights_stay_in_bfloat16(tmp_path: Path) -> None:
    step = build(training(in_backward=True, dtype="bf16"), tmp_path)
    weights = learn(step, 1)
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    states = itertools.chain.from_iterable(entries.values() for entries in step.step.optimizer.state.values())
    assert {state.dtype for state in states} == {torch.float32}
