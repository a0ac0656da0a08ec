"""`task=plan`: memory and time of a training run from its configuration alone, without loading PyTorch."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from recipe_exp.config.data import DataConfig
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.task import PlanTask
from recipe_exp.errors import ConfigError
from recipe_exp.files import write_result
from recipe_exp.planning.device import PlannedDevice, planned_device
from recipe_exp.planning.plan import Plan, build_plan
from recipe_exp.planning.table import plan_table


def run(config: ExperimentConfig) -> int:
    """Prints the plan, writes it to `task.output` if set, and returns 0 if the run fits, else 1."""
    assert isinstance(config.task, PlanTask)
    device = planned_device(config.hardware)
    plan = plan_run(config, device)
    Console().print(plan_table(plan, device_name=device.name, free_bytes=device.free_bytes))
    if config.task.output is not None:
        _write(plan, Path(config.task.output).expanduser())
    return 0 if plan.fits else 1


def plan_run(config: ExperimentConfig, device: PlannedDevice) -> Plan:
    """Returns the plan of training with this configuration on this device."""
    hardware = config.hardware
    if hardware.num_processes == "auto":
        hardware = hardware.model_copy(update={"num_processes": device.num_devices})
    return build_plan(
        config.model,
        config.training,
        hardware,
        config.data,
        device=device.device,
        precision=device.precision(config.training.precision),
        attention=device.attention(config.model.attention),
        memory_bytes=device.memory_bytes,
        num_train_examples=_num_train_examples(config.data),
    )


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
