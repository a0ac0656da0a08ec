"""`task=plan`: memory and time of a training run from its configuration alone, without loading PyTorch."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from recipe_exp.config.data import DataConfig
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.model import ModelConfig
from recipe_exp.config.task import PlanTask
from recipe_exp.data.tokens.cache import find_cache
from recipe_exp.errors import CheckpointError, ConfigError, RecipeExpError
from recipe_exp.files import write_result
from recipe_exp.models.download import known_family
from recipe_exp.planning.device import PlannedDevice, planned_device
from recipe_exp.planning.inputs import Inputs, Machine
from recipe_exp.planning.lengths import Lengths, estimated_lengths, lengths_of
from recipe_exp.planning.plan import Plan, build_plan
from recipe_exp.planning.remedies import Setup
from recipe_exp.planning.table import plan_table
from recipe_exp.planning.timing import MeasuredSpeed
from recipe_exp.tasks.places import cache_dir_of
from recipe_exp.tasks.references import resolve_references
from recipe_exp.tracking import list_runs


def run(config: ExperimentConfig) -> int:
    """Prints the plan, writes it to `task.output` if set, and returns 0 if the run fits, else 1."""
    config = resolve_references(config)
    assert isinstance(config.task, PlanTask)
    device = planned_device(config.hardware)
    plan = plan_run(config, device)
    Console().print(plan_table(plan, device_name=device.name, free_bytes=device.free_bytes))
    if config.task.output is not None:
        _write(plan, Path(config.task.output).expanduser())
    return 0 if plan.fits else 1


def plan_run(config: ExperimentConfig, device: PlannedDevice) -> Plan:
    """Returns the plan of training with this configuration on this device; nothing is made or downloaded for it."""
    hardware = config.hardware
    if hardware.num_processes == "auto":
        hardware = hardware.model_copy(update={"num_processes": device.num_devices})
    precision = device.precision(config.training.precision)
    machine = Machine(
        device=device.device,
        attention=device.attention(config.model.attention),
        memory_bytes=device.memory_bytes,
        measured=measured_speed(config, device.name, precision),
    )
    setup = setup_of(config, precision, is_compiled=device.device == "cuda" and hardware.compile is not False)
    inputs = Inputs(setup, hardware, config.data, config.evaluation, machine, _lengths(config))
    return with_unknowns(build_plan(inputs), config.model)


def setup_of(config: ExperimentConfig, precision: str, *, is_compiled: bool) -> Setup:
    """Returns what decides memory and time of a configuration; a family that is not known here is taken for T5's."""
    family = known_family(config.model)
    is_padded = family is not None and not family.is_unpadded
    return Setup(config.model, config.training, precision, is_compiled=is_compiled, is_padded=is_padded)


def with_unknowns(plan: Plan, model: ModelConfig) -> Plan:
    """Returns a plan that also tells what was never measured of the model, where its config.json is on this machine."""
    family = known_family(model)
    if family is None or family.unknown is None:
        return plan
    return replace(plan, warnings=(*plan.warnings, family.unknown))


def measured_speed(config: ExperimentConfig, device_name: str | None, precision: str) -> MeasuredSpeed | None:
    """Returns what the newest run under `output_dir` reached with this model on this device; None without any."""
    wanted = (device_name, precision, config.model.name, tuning_of(config))
    for folder in list_runs(Path(config.output_dir).expanduser(), "run"):
        with suppress(CheckpointError, OSError):
            record = folder.read_record()
            speed, machinery = record.get("speed"), record.get("machinery") or {}
            found = (machinery.get("device_name"), machinery.get("precision"))
            if speed is not None and (*found, speed["model"], speed["tuning"]) == wanted:
                return MeasuredSpeed(float(speed["flops_per_second"]), str(record.get("run_name", folder.path.name)))
    return None


def tuning_of(config: ExperimentConfig) -> str:
    """Returns the way of tuning on which speed depends, in words that a record can hold."""
    checkpointing = " checkpointing" if config.model.gradient_checkpointing else ""
    return f"{config.training.adapter.kind} {config.training.optimizer.kind}{checkpointing}"


def _lengths(config: ExperimentConfig) -> Lengths:
    """Those of a cache that is there, else what is typical."""
    vocab_size = None if config.model.pretrained else config.model.shape.vocab_size
    try:
        cache = find_cache(config.data, cache_dir=cache_dir_of(config), vocab_size=vocab_size)
    except RecipeExpError:  # the data need not be on the machine that plans
        cache = None
    if cache is None or not len(cache.split("train")):
        return estimated_lengths(config.data, _num_train_examples(config.data))
    return lengths_of(cache)


def _num_train_examples(data: DataConfig) -> int | None:
    """Recipes of a file are not counted here; a bound on their number is taken as the number."""
    if data.max_examples is None:
        return None
    return max(round(data.max_examples * (1 - data.validation_fraction - data.test_fraction)), 1)


def _write(plan: Plan, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_result(path, (json.dumps(plan.to_dict(), indent=2) + "\n").encode())
    except OSError as error:
        raise ConfigError([f"task.output={path}: {error.strerror}; name a file that can be written"]) from None
