"""The chunked optimizers against those of PyTorch in fp32, and what low precision does to them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import Adafactor, AdamW

from recipe_exp.training import chunked_optimizers
from recipe_exp.training.chunked_optimizers import ChunkedAdafactor, ChunkedAdamW, norm_in_chunks
from recipe_exp.training.moments import QuantizedMoments

SHAPES = [(40, 24), (7, 300), (24,), (1, 1), (32, 4)]
RATE, DECAY = 0.02, 0.1


def weights(dtype: torch.dtype = torch.float32, seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES]


def groups(parameters: list[nn.Parameter]) -> list[dict[str, object]]:
    return [{"params": parameters[:2], "weight_decay": DECAY}, {"params": parameters[2:], "weight_decay": 0.0}]


def theirs(kind: str, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if kind == "adamw":
        return AdamW(groups(parameters), lr=RATE, betas=(0.9, 0.98), eps=1e-8)
    return Adafactor(groups(parameters), lr=RATE, beta2_decay=-0.8, d=1.0)


def ours(kind: str, parameters: list[nn.Parameter], **settings: object) -> chunked_optimizers.ChunkedOptimizer:
    if kind == "adamw":
        return ChunkedAdamW(groups(parameters), lr=RATE, betas=(0.9, 0.98), epsilon=1e-8, **settings)
    return ChunkedAdafactor(groups(parameters), lr=RATE, beta2_decay=-0.8, clip_threshold=1.0)


def set_gradients(parameters: list[nn.Parameter], seed: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = (scale * torch.randn(parameter.shape, generator=generator)).to(parameter.dtype)


@pytest.mark.parametrize("chunk", [4 * 2**20, 48, 1])
@pytest.mark.parametrize("kind", ["adamw", "adafactor"])
def test_updates_are_those_of_pytorch(kind, chunk, monkeypatch):
    monkeypatch.setattr(chunked_optimizers, "CHUNK_ELEMENTS", chunk)
    mine, reference = weights(), weights()
    stepper, oracle = ours(kind, mine), theirs(kind, reference)
    for seed in range(5):
        for parameters, optimizer in ((mine, stepper), (reference, oracle)):
            # Small gradients leave the update unclipped, large ones do not.
            set_gradients(parameters, seed, scale=10.0 ** (seed - 2))
            optimizer.step()
    for found, expected in zip(mine, reference, strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["adamw", "adafactor"])
def test_an_unsound_step_leaves_weights_and_state_as_they_are(kind, dtype):
    parameters = weights(dtype)
    stepper = ours(kind, parameters)
    set_gradients(parameters, 0)
    stepper.step()

    def everything():
        states = [value for parameter in parameters for value in stepper.state[parameter].values()]
        return [tensor.detach().clone() for tensor in (*parameters, *states)]

    before = everything()
    for parameter in parameters:
        parameter.grad.fill_(float("nan"))
    stepper.gated_step(torch.tensor(False))
    assert all(torch.equal(one, other) for one, other in zip(before, everything(), strict=True))


@pytest.mark.parametrize("kind", ["adamw", "adafactor"])
def test_an_unsound_first_step_does_nothing(kind):
    parameters, untouched = weights(), weights()
    stepper = ours(kind, parameters)
    set_gradients(parameters, 0)
    stepper.gated_step(torch.tensor(False))
    assert all(torch.equal(one, other) for one, other in zip(parameters, untouched, strict=True))
    assert all(float(stepper.state[parameter]["step"]) == 0 for parameter in parameters)


@pytest.mark.parametrize("kind", ["adamw", "adafactor"])
def test_bfloat16_follows_fp32_on_average_although_an_update_is_below_its_resolution(kind):
    def train(dtype):
        parameter = nn.Parameter(torch.ones(200, 200, dtype=dtype))
        group = [{"params": [parameter], "weight_decay": 0.0}]
        stepper = (
            ChunkedAdamW(group, lr=2e-5, betas=(0.9, 0.999), epsilon=1e-8)
            if kind == "adamw"
            else ChunkedAdafactor(group, lr=2e-5, beta2_decay=-0.8, clip_threshold=1.0)
        )
        for seed in range(100):
            stepper.seed_rounding(seed)
            parameter.grad = torch.full_like(parameter, 0.01)
            stepper.step()
        return parameter.detach().double()

    exact, low = train(torch.float32), train(torch.bfloat16)
    assert float(exact.mean()) == pytest.approx(1 - 100 * 2e-5, abs=2e-5)
    assert float(low.mean()) == pytest.approx(float(exact.mean()), abs=1e-4)


def test_the_second_moment_in_bfloat16_reaches_its_mean():
    parameter = nn.Parameter(torch.zeros(100, 100, dtype=torch.bfloat16))
    group = [{"params": [parameter], "weight_decay": 0.0}]
    stepper = ChunkedAdamW(group, lr=1e-3, betas=(0.9, 0.99), epsilon=1e-8)
    for seed in range(400):
        stepper.seed_rounding(seed)
        parameter.grad = torch.full_like(parameter, 0.5)
        stepper.step()
    assert float(stepper.state[parameter]["exp_avg_sq"].float().mean()) == pytest.approx(
        0.25 * (1 - 0.99**400), rel=0.01
    )


def test_moments_in_8_bits_stay_close_to_those_in_fp32():
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    target = torch.randn(100, 100)

    def train(**settings):
        parameter = nn.Parameter(torch.zeros(100, 100))
        stepper = ChunkedAdamW(
            [{"params": [parameter], "weight_decay": 0.0}], lr=0.02, betas=(0.9, 0.99), epsilon=1e-8, **settings
        )
        for _ in range(150):
            parameter.grad = parameter.detach() - target
            stepper.step()
        return parameter.detach(), stepper.state[parameter]

    (exact, _), (low, state) = train(), train(moments=QuantizedMoments())
    assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == torch.uint8
    assert (low - target).norm() <= 1.1 * (exact - target).norm() + 0.02 * target.norm()


def test_moments_of_small_weights_are_not_quantised():
    pytest.importorskip("bitsandbytes")
    parameter = nn.Parameter(torch.zeros(64))
    stepper = ChunkedAdamW(
        [{"params": [parameter]}], lr=0.02, betas=(0.9, 0.99), epsilon=1e-8, moments=QuantizedMoments()
    )
    parameter.grad = torch.ones(64)
    stepper.step()
    assert stepper.state[parameter]["exp_avg"].dtype == torch.float32
    torch.testing.assert_close(parameter.detach(), torch.full((64,), -0.02))


def test_the_norm_is_that_of_the_whole(monkeypatch):
    monkeypatch.setattr(chunked_optimizers, "CHUNK_ELEMENTS", 50)
    for parameter in weights():
        torch.testing.assert_close(norm_in_chunks(parameter.detach()), parameter.detach().norm())


def test_the_norm_of_an_embedding_is_right_to_the_sixth_digit():
    torch.manual_seed(0)
    gradient = torch.randn(32_128, 512) * 1e-3
    assert float(norm_in_chunks(gradient)) == pytest.approx(float(gradient.double().norm()), rel=1e-6)
    torch.testing.assert_close(
        norm_in_chunks(gradient.bfloat16()).double(), gradient.bfloat16().double().norm(), rtol=1e-6, atol=0.0
    )


def test_a_closure_is_refused():
    with pytest.raises(ValueError, match="closure"):
        ours("adamw", weights()).step(lambda: 1.0)
