from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Adafactor, AdamW, Optimizer

from recipe_exp.config.model import ModelShape
from recipe_exp.config.training import (
    AdafactorConfig,
    AdamW8bitConfig,
    AdamWConfig,
    LinearScheduleConfig,
    LoraConfig,
    NoAdapterConfig,
    TrainingConfig,
)
from recipe_exp.models import load
from recipe_exp.models.adapters import add_lora
from recipe_exp.models.sequence_loss import SequenceLoss
from recipe_exp.training.optimizers import (
    build_optimizer,
    gated_step,
    load_named_optimizer_state,
    named_optimizer_state,
    parameter_groups,
    set_learning_rate,
)

SHAPE = ModelShape(vocab_size=60, d_model=16, d_kv=4, d_ff=24, num_layers=1, num_decoder_layers=1, num_heads=2)
KINDS = [AdamWConfig(), AdafactorConfig()]
both = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)


def config(kind: Any, **settings: Any) -> TrainingConfig:
    return TrainingConfig(
        optimizer=kind,
        schedule=LinearScheduleConfig(),
        **{"adapter": NoAdapterConfig(), "learning_rate": 0.01, "weight_decay": 0.1, **settings},
    )


def build(kind: Any, **settings: Any) -> tuple[SequenceLoss, Optimizer]:
    torch.manual_seed(0)
    model = SequenceLoss(load.from_shape(SHAPE, dtype=torch.float32).eval())
    return model, build_optimizer(model, config(kind, **settings))


def head_of(model: SequenceLoss) -> torch.Tensor:
    network: Any = model.network
    weight: torch.Tensor = network.lm_head.weight
    return weight


def set_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def update(model: nn.Module, optimizer: Optimizer, seeds: range, is_finite: bool = True) -> None:
    for seed in seeds:
        set_gradients(model, seed)
        gated_step(optimizer, torch.tensor(is_finite))


def snapshot(model: nn.Module, optimizer: Optimizer) -> dict[str, torch.Tensor]:
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    moments = {name: tensor.clone() for name, tensor in named_optimizer_state(model, optimizer).items()}
    return weights | moments


def assert_bit_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_matrices_decay_and_norms_and_position_biases_do_not() -> None:
    model, optimizer = build(AdamWConfig())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, exempt = optimizer.param_groups
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (0.1, 0.0)
    exempt_names = {names[id(parameter)] for parameter in exempt["params"]}
    assert exempt_names == {n for n in names.values() if n.endswith(("layer_norm.weight", "attention_bias.weight"))}
    assert len(exempt_names) == 2 + 3 + 2 + 2, "of encoder and decoder blocks, the final norms, the position biases"
    assert len(decayed["params"]) + len(exempt["params"]) == len(names)
    assert all(parameter.dim() == 2 for parameter in decayed["params"])


def test_without_a_gradient_only_what_decays_shrinks() -> None:
    model, optimizer = build(AdamWConfig())
    before = snapshot(model, optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    gated_step(optimizer, torch.tensor(True))
    for name, parameter in model.named_parameters():
        is_exempt = "layer_norm" in name or "relative_attention_bias" in name
        torch.testing.assert_close(parameter.detach(), before[name] * (1.0 if is_exempt else 1 - 0.01 * 0.1))


def test_a_frozen_base_is_in_no_group() -> None:
    network = add_lora(load.from_shape(SHAPE, dtype=torch.float32), LoraConfig(rank=2), base="base")
    (group,) = parameter_groups(network, 0.1)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    assert [id(parameter) for parameter in group["params"]] == [id(parameter) for parameter in trained]


def test_the_configuration_decides_the_optimizer() -> None:
    _, adamw = build(AdamWConfig(beta1=0.8, beta2=0.99, epsilon=1e-6), learning_rate=0.003)
    assert isinstance(adamw, AdamW)
    found = {key: adamw.param_groups[0][key] for key in ("betas", "eps", "lr", "fused")}
    assert found == {"betas": (0.8, 0.99), "eps": 1e-6, "lr": 0.003, "fused": True}
    _, adafactor = build(AdafactorConfig(beta2_decay=-0.7, clip_threshold=2.0), learning_rate=0.003)
    assert isinstance(adafactor, Adafactor)
    found = {key: adafactor.param_groups[0][key] for key in ("beta2_decay", "d", "lr")}
    assert found == {"beta2_decay": -0.7, "d": 2.0, "lr": 0.003}


@both
def test_the_next_update_uses_the_rate_that_was_set(kind: Any) -> None:
    def change(rate: float) -> float:
        model, optimizer = build(kind, weight_decay=0.0)
        weight = head_of(model)
        before = weight.detach().clone()
        set_learning_rate(optimizer, rate)
        update(model, optimizer, range(1))
        return float((weight.detach() - before).norm())

    assert change(0.0) == 0.0
    assert change(0.02) == pytest.approx(2 * change(0.01), rel=1e-3)


def test_adamw_is_that_of_its_paper() -> None:
    model, optimizer = build(AdamWConfig(beta1=0.9, beta2=0.99, epsilon=1e-8))
    weight = head_of(model)
    expected = weight.detach().double()
    first, second = torch.zeros_like(expected), torch.zeros_like(expected)
    for number in range(1, 4):
        set_gradients(model, number)
        assert weight.grad is not None
        gradient = weight.grad.double()
        first, second = 0.9 * first + 0.1 * gradient, 0.99 * second + 0.01 * gradient**2
        corrected = first / (1 - 0.9**number) / ((second / (1 - 0.99**number)).sqrt() + 1e-8)
        expected = expected - 0.01 * (corrected + 0.1 * expected)
        gated_step(optimizer, torch.tensor(True))
    torch.testing.assert_close(weight.detach().double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [AdamWConfig(), AdamW8bitConfig(), AdafactorConfig()], ids=lambda kind: kind.kind)
def test_a_divisor_divides_every_gradient(kind: Any) -> None:
    def after(divisor: float | None) -> dict[str, torch.Tensor]:
        model, optimizer = build(kind, weight_decay=0.0)
        for seed in range(2):
            set_gradients(model, seed)
            if divisor is None:
                for parameter in model.parameters():
                    assert parameter.grad is not None
                    parameter.grad /= 4.0 + seed
            gated_step(optimizer, torch.tensor(True), None if divisor is None else torch.tensor(divisor + seed))
        return snapshot(model, optimizer)

    divided, plain = after(4.0), after(None)
    for name, value in plain.items():
        torch.testing.assert_close(divided[name], value, rtol=1e-5, atol=1e-6, msg=name)


@both
@pytest.mark.parametrize("num_before", [0, 3])
def test_a_closed_gate_leaves_weights_and_moments_bit_equal(kind: Any, num_before: int) -> None:
    model, optimizer = build(kind)
    update(model, optimizer, range(num_before))
    before = snapshot(model, optimizer)
    for value in (float("nan"), float("inf")):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, value)
        gated_step(optimizer, torch.tensor(False))
    after = snapshot(model, optimizer)
    if num_before:
        assert_bit_equal(before, after)
    else:
        assert all(torch.equal(after[name], before[name]) for name in before)
        assert not any(after[name].any() for name in after.keys() - before.keys())


@both
def test_a_closed_gate_leaves_no_trace_in_what_follows(kind: Any) -> None:
    skipping, undisturbed = build(kind), build(kind)
    for number in range(4):
        update(*skipping, range(number, number + 1))
        update(*undisturbed, range(number, number + 1))
        update(*skipping, range(90, 91), is_finite=False)
    assert_bit_equal(snapshot(*skipping), snapshot(*undisturbed))


@both
def test_a_state_put_back_continues_bit_equal(kind: Any) -> None:
    whole_model, whole = build(kind)
    update(whole_model, whole, range(3))
    weights = {name: tensor.clone() for name, tensor in whole_model.state_dict().items()}
    state = {name: tensor.clone() for name, tensor in named_optimizer_state(whole_model, whole).items()}
    assert all(tensor.is_contiguous() for tensor in state.values())
    update(whole_model, whole, range(3, 6))

    model, optimizer = build(kind)
    update(model, optimizer, range(50, 52))
    model.load_state_dict(weights)
    load_named_optimizer_state(model, optimizer, state)
    update(model, optimizer, range(3, 6))
    assert_bit_equal(snapshot(model, optimizer), snapshot(whole_model, whole))


@both
def test_the_state_is_named_by_weight_and_knows_nothing_of_their_order(kind: Any) -> None:
    model, optimizer = build(kind)
    update(model, optimizer, range(2))
    state = named_optimizer_state(model, optimizer)
    assert {name.rpartition("::")[0] for name in state} == {name for name, _ in model.named_parameters()}
    shuffled = dict(sorted(state.items(), reverse=True))
    other_model, other = build(kind)
    load_named_optimizer_state(other_model, other, shuffled)
    found = named_optimizer_state(other_model, other)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_the_state_of_another_model_is_refused() -> None:
    model, optimizer = build(AdamWConfig())
    with pytest.raises(KeyError, match="elsewhere"):
        load_named_optimizer_state(model, optimizer, {"elsewhere::exp_avg": torch.zeros(1)})


# LoRA+


def adapted(**lora: Any) -> tuple[SequenceLoss, Optimizer]:
    torch.manual_seed(0)
    adapter = LoraConfig(rank=2, dropout=0.0, **lora)
    network = add_lora(load.from_shape(SHAPE, dtype=torch.float32), adapter, base="none")
    model = SequenceLoss(network.eval())
    return model, build_optimizer(model, config(AdamWConfig(), adapter=adapter))


def test_lora_plus_moves_b_by_its_own_rate() -> None:
    """One step by hand: Adam's first moves a weight by its rate, against the gradient's sign, after the decay."""
    model, optimizer = adapted(learning_rate_ratio=8.0)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    set_learning_rate(optimizer, 0.002)
    assert {group.get("lr_scale"): group["lr"] for group in optimizer.param_groups} == {None: 0.002, 8.0: 0.016}
    set_gradients(model, 0)
    gated_step(optimizer, torch.tensor(True))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.grad is not None:
            rate = 0.016 if "lora_B" in name else 0.002
            expected = before[name] * (1 - rate * 0.1) - rate * parameter.grad.sign()
            torch.testing.assert_close(parameter.detach(), expected, rtol=1e-4, atol=1e-6)


def test_a_ratio_of_one_is_plain_lora() -> None:
    models = []
    for lora in ({}, {"learning_rate_ratio": 1.0}):
        model, optimizer = adapted(**lora)
        for seed in range(3):
            set_learning_rate(optimizer, 0.01)
            update(model, optimizer, range(seed, seed + 1))
        models.append({name: p.detach() for name, p in model.named_parameters() if p.requires_grad})
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_magnitudes_of_dora_do_not_decay() -> None:
    model, _ = adapted(dora=True, learning_rate_ratio=2.0)
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = [
        (
            group["weight_decay"],
            group.get("lr_scale"),
            {names[p].split(".lora_")[1].split(".")[0] for p in group["params"]},
        )
        for group in parameter_groups(model, 0.1, 2.0)
    ]
    assert groups == [(0.1, None, {"A"}), (0.0, None, {"magnitude_vector"}), (0.1, 2.0, {"B"})]
