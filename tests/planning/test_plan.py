"""The plan: verdict, advice that holds, time and disk; for every model, way of tuning and card."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from recipe_exp.config.compose import compose
from recipe_exp.planning.generation import MOMENT
from recipe_exp.planning.lengths import estimated_lengths
from recipe_exp.planning.memory import GIB
from recipe_exp.planning.remedies import Setup
from recipe_exp.planning.timing import MeasuredSpeed, estimate_timing

MODELS = ("t5_tiny", "t5_mini", "flan_t5_small", "flan_t5_base", "flan_t5_large", "flan_t5_xl", "flan_t5_xxl")
CARDS = ("rtx4090", "rtx5090", "h100")


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("training", ["full", "full_low_memory", "lora"])
@pytest.mark.parametrize("model", MODELS)
def test_every_combination_has_a_consistent_plan(composed, planned, model, training, card):
    config = composed(f"model={model}", f"training={training}")
    config = config.model_copy(update={"hardware": composed(f"hardware={card}").hardware})
    plan = planned(config, num_examples=9600)
    assert plan.fits == (plan.peak_bytes <= plan.subject.usable_bytes)
    assert plan.peak_bytes == sum(plan.parts.values())
    assert plan.micro_batch_tokens >= plan.longest_example_tokens
    assert plan.typical.peak_bytes <= plan.peak_bytes
    assert plan.alternative.gradient_checkpointing is not plan.subject.gradient_checkpointing
    assert not (plan.fits and plan.advice)
    assert all(change.peak_bytes <= plan.subject.usable_bytes for change in plan.advice)
    assert plan.hours_per_epoch > 0
    assert json.loads(json.dumps(plan.to_dict()))["fits"] is plan.fits


@pytest.mark.parametrize("size", ["small", "base", "large", "xl"])
def test_adapters_of_all_but_the_largest_fit_every_card(composed, planned, size):
    assert planned(composed(f"model=flan_t5_{size}", "training=lora", "hardware=rtx4090")).fits


def test_full_tuning_of_xl_needs_the_large_card(composed, planned):
    assert not planned(composed("model=flan_t5_xl", "training=full", "hardware=rtx5090")).fits
    assert planned(composed("model=flan_t5_xl", "training=full", "hardware=h100")).fits


UNFIT = (
    ("model=flan_t5_xl", "training=full", "hardware=rtx5090"),
    ("model=flan_t5_xxl", "training=full", "hardware=rtx5090"),
    ("model=flan_t5_xxl", "training=full", "hardware=h100"),
    ("model=flan_t5_xxl", "training=lora", "hardware=rtx5090", "training.precision=fp32"),
    (
        *("model=flan_t5_base", "training=full", "hardware=rtx4090"),
        *("training.batch_size=256", "hardware.micro_batch_tokens=200000"),
    ),
)


@pytest.mark.parametrize("overrides", UNFIT)
def test_each_advice_makes_it_fit(overrides, planned):
    plan = planned(compose(overrides))
    assert not plan.fits
    assert plan.advice
    for change in plan.advice:
        keys = {override.partition("=")[0] for override in change.overrides}
        kept = [line for line in overrides if line.partition("=")[0] not in keys]
        assert planned(compose([*kept, *change.overrides])).fits, change


def test_advice_is_minimal_and_cheapest_first(composed, planned):
    plan = planned(composed("model=flan_t5_xl", "training=full", "hardware=rtx5090"))
    assert [change.overrides for change in plan.advice] == [
        ("training/optimizer=adafactor", "model.gradient_checkpointing=true"),
        ("training=full_8bit",),
        ("training=full_low_memory",),
        ("training=lora",),
        ("training=qlora",),
    ]


def test_what_nothing_makes_fit_names_the_leanest_settings(composed, planned):
    overrides = ("model=flan_t5_xxl", "training=full", "hardware=rtx4090", "hardware.memory_gb=10")
    plan = planned(composed(*overrides, "model.gradient_checkpointing=false"))
    assert not plan.advice
    assert set(plan.leanest.leanest_overrides) == {"training=qlora", "model.gradient_checkpointing=true"}
    assert 10 * GIB < plan.leanest.leanest_memory_bytes < 14 * GIB


def test_time_follows_examples_lengths_and_processes(composed, planned):
    overrides = ("model=flan_t5_base", "training=full", "hardware=rtx5090")
    config = composed(*overrides)
    lengths = estimated_lengths(config.data, 3201)
    doubled = replace(lengths, sources=2 * lengths.sources, targets=2 * lengths.targets, is_estimated=False)
    plan, longer = planned(config, lengths=lengths), planned(config, lengths=doubled)
    shared = planned(composed(*overrides, "hardware.num_processes=2"))
    assert plan.timing.steps_per_epoch == 101
    assert plan.hours_per_epoch == pytest.approx(101 * plan.seconds_per_step / 3600)
    assert plan.timing.steps_within(9) == int(9 * 3600 / plan.seconds_per_step)
    assert plan.timing.lengths_are_estimated
    assert not longer.timing.lengths_are_estimated
    assert 2 * plan.seconds_per_step < longer.seconds_per_step < 2.2 * plan.seconds_per_step
    assert shared.seconds_per_step == pytest.approx(plan.seconds_per_step / 2)


def test_a_speed_that_was_measured_takes_the_place_of_an_assumed_one(composed):
    config = composed("model=flan_t5_base", "training=full", "hardware=rtx5090")
    setup, lengths = Setup(config.model, config.training, "bf16"), estimated_lengths(config.data, None)
    timing = estimate_timing(setup, config.hardware, lengths, MeasuredSpeed(1e13, "an earlier run"))
    assert timing.seconds_per_step == pytest.approx(32 * timing.flops_per_example / 1e13)
    assert (timing.measured_by, timing.assumed_utilisation) == ("an earlier run", None)


def test_checkpointing_costs_a_quarter_more_time(composed, planned):
    plan = planned(composed("model=flan_t5_large", "training=full", "hardware=rtx4090"))
    assert plan.alternative.seconds_per_step / plan.seconds_per_step == pytest.approx(5 / 4, rel=0.03)
    assert plan.alternative.micro_batch_tokens > plan.micro_batch_tokens


def test_a_typical_step_of_short_recipes_needs_less_than_the_longest(composed, planned):
    plan = planned(composed("model=flan_t5_base", "training=full", "hardware=rtx4090"))
    assert plan.typical.parts["activations"] < 0.8 * plan.memory.parts["activations"]


def test_an_evaluation_writes_as_many_recipes_at_a_time_as_fit(composed, planned):
    config = composed("model=flan_t5_xxl", "training=qlora", "hardware=rtx4090", "model.gradient_checkpointing=true")
    small = config.hardware.model_copy(update={"memory_gb": 15.5})
    on_a_small_card, usual = planned(config.model_copy(update={"hardware": small})), planned(config)
    assert on_a_small_card.fits
    assert 1 < on_a_small_card.num_generated_at_once < usual.num_generated_at_once == 16_384 // 768
    assert on_a_small_card.generation.peak_bytes <= on_a_small_card.subject.usable_bytes


def test_an_evaluation_of_which_not_one_recipe_fits_is_told_to_write_without_beams(composed, planned):
    beams = ("evaluation.num_beams=32", "data.max_target_tokens=64", "data.max_source_tokens=64")
    config = composed("model=flan_t5_xxl", "training=qlora", "hardware=rtx4090", *beams)
    small = config.hardware.model_copy(update={"memory_gb": 14})
    plan = planned(config.model_copy(update={"hardware": small}))
    assert plan.memory.moment == MOMENT
    assert not plan.fits
    assert plan.advice[0].overrides[-1] == "evaluation.num_beams=1"
    greedy = config.evaluation.model_copy(update={"num_beams": 1})
    assert planned(config.model_copy(update={"hardware": small, "evaluation": greedy})).fits


def test_a_step_within_the_backward_pass_is_told_to_take_smaller_steps(composed, planned):
    config = composed("model=flan_t5_xxl", "training=full_low_memory", "hardware=rtx5090", "training.batch_size=64")
    plan = planned(config)
    assert not plan.fits
    (advice, *_) = plan.advice
    key, _, size = advice.overrides[0].partition("=")
    assert key == "training.batch_size"
    training = config.training.model_copy(update={"batch_size": int(size)})
    assert planned(config.model_copy(update={"training": training})).fits


def test_planning_loads_no_torch():
    code = (
        "import sys; import recipe_exp.tasks.plan; "
        "sys.exit(bool({'torch', 'transformers', 'mlflow', 'accelerate'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
