"""The plan: verdict, advice that holds, time and disk; for every model, way of tuning and card."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from recipe_exp.config.compose import compose
from recipe_exp.planning.memory import GIB
from recipe_exp.planning.plan import build_plan

MODELS = ("t5_tiny", "flan_t5_small", "flan_t5_base", "flan_t5_large", "flan_t5_xl", "flan_t5_xxl")
CARDS = ("rtx4090", "rtx5090", "h100")


def plan_of(config, **known):
    precision = "bf16" if config.training.precision == "auto" else config.training.precision
    return build_plan(
        config.model,
        config.training,
        config.hardware,
        config.data,
        device="cuda",
        precision=precision,
        attention="sdpa",
        memory_bytes=int(config.hardware.memory_gb * GIB),
        **known,
    )


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("training", ["full", "lora"])
@pytest.mark.parametrize("model", MODELS)
def test_every_combination_has_a_consistent_plan(composed, model, training, card):
    config = composed(f"model={model}", f"training={training}")
    config = config.model_copy(update={"hardware": composed(f"hardware={card}").hardware})
    plan = plan_of(config, num_train_examples=9600)
    assert plan.fits == (plan.peak_bytes <= plan.usable_bytes)
    assert plan.peak_bytes == sum(plan.parts.values())
    assert plan.micro_batch_tokens >= plan.longest_example_tokens
    assert not (plan.fits and plan.advice)
    assert all(change.peak_bytes <= plan.usable_bytes for change in plan.advice)
    assert plan.hours_per_epoch > 0
    assert json.loads(json.dumps(plan.to_dict()))["fits"] is plan.fits


@pytest.mark.parametrize("size", ["small", "base", "large", "xl"])
def test_adapters_of_all_but_the_largest_fit_every_card(composed, size):
    assert plan_of(composed(f"model=flan_t5_{size}", "training=lora", "hardware=rtx4090")).fits


def test_full_tuning_of_xl_needs_the_large_card(composed):
    assert not plan_of(composed("model=flan_t5_xl", "training=full", "hardware=rtx5090")).fits
    assert plan_of(composed("model=flan_t5_xl", "training=full", "hardware=h100")).fits


UNFIT = (
    ("model=flan_t5_xl", "training=full", "hardware=rtx5090"),
    ("model=flan_t5_xxl", "training=full", "hardware=rtx5090"),
    ("model=flan_t5_xxl", "training=full", "hardware=h100"),
    ("model=flan_t5_xxl", "training=lora", "hardware=rtx5090", "training.precision=fp32"),
    ("model=flan_t5_base", "training=full", "hardware=rtx4090", "hardware.micro_batch_tokens=200000"),
)


@pytest.mark.parametrize("overrides", UNFIT)
def test_each_advice_makes_it_fit(overrides):
    plan = plan_of(compose(overrides))
    assert not plan.fits
    assert plan.advice
    for change in plan.advice:
        keys = {override.partition("=")[0] for override in change.overrides}
        kept = [line for line in overrides if line.partition("=")[0] not in keys]
        assert plan_of(compose([*kept, *change.overrides])).fits, change


def test_advice_is_minimal_and_cheapest_first(composed):
    plan = plan_of(composed("model=flan_t5_xl", "training=full", "hardware=rtx5090"))
    assert [change.overrides for change in plan.advice] == [
        ("training/optimizer=adafactor", "model.gradient_checkpointing=true"),
        ("training=lora",),
    ]


def test_what_nothing_makes_fit_names_the_leanest_settings(composed):
    plan = plan_of(
        composed("model=flan_t5_xxl", "training=full", "hardware=rtx4090", "model.gradient_checkpointing=false")
    )
    assert not plan.advice
    assert set(plan.leanest_overrides) == {"training=lora", "model.gradient_checkpointing=true"}
    assert 20 * GIB < plan.leanest_memory_bytes < 32 * GIB


def test_time_follows_examples_lengths_and_processes(composed):
    config = composed("model=flan_t5_base", "training=full", "hardware=rtx5090")
    plan = plan_of(config, num_train_examples=3201)
    longer = plan_of(config, num_train_examples=3201, mean_source_tokens=50, mean_target_tokens=276)
    double = plan_of(compose(["model=flan_t5_base", "training=full", "hardware=rtx5090", "hardware.num_processes=2"]))
    assert plan.timing.steps_per_epoch == 101
    assert plan.hours_per_epoch == pytest.approx(101 * plan.seconds_per_step / 3600)
    assert plan.timing.steps_within(9) == int(9 * 3600 / plan.seconds_per_step)
    assert plan.timing.lengths_are_estimated
    assert not longer.timing.lengths_are_estimated
    assert 2 * plan.seconds_per_step < longer.seconds_per_step < 2.2 * plan.seconds_per_step
    assert double.seconds_per_step == pytest.approx(plan.seconds_per_step / 2)


def test_checkpointing_costs_a_third_more_time(composed):
    plain, recomputed = (
        plan_of(composed("model=flan_t5_large", "training=full", "hardware=h100", *more))
        for more in ((), ("model.gradient_checkpointing=true",))
    )
    assert recomputed.seconds_per_step / plain.seconds_per_step == pytest.approx(4 / 3, rel=0.03)
    assert recomputed.micro_batch_tokens > plain.micro_batch_tokens


def test_planning_loads_no_torch():
    code = (
        "import sys; import recipe_exp.tasks.plan; "
        "sys.exit(bool({'torch', 'transformers', 'mlflow', 'accelerate'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
