"""`task=doctor`: in seconds and without a download, whether this machine can do what the configuration asks for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from rich.console import Console

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.hardware.limits import read_limits
from recipe_exp.planning.device import planned_device, visible_gpus
from recipe_exp.planning.plan import Plan
from recipe_exp.tasks.doctor.device import check_attention, check_gpu, check_limits, check_memory
from recipe_exp.tasks.doctor.disk import check_disk
from recipe_exp.tasks.doctor.findings import Finding, findings_of, findings_table
from recipe_exp.tasks.doctor.model import check_model, check_model_code
from recipe_exp.tasks.doctor.packages import (
    check_bitsandbytes,
    check_packages,
    declared_requirements,
    needed_extras,
)
from recipe_exp.tasks.doctor.tracking import check_tracking
from recipe_exp.tasks.plan import plan_run


def run(config: ExperimentConfig) -> int:
    """Prints one row for each finding and returns 1 if any of them fails, else 0."""
    console = Console(highlight=False)
    with console.status("looking at the machine"):
        findings = list(examine(config))
    console.print(findings_table(findings))
    return 1 if any(finding.status == "fail" for finding in findings) else 0


def examine(config: ExperimentConfig) -> Iterator[Finding]:
    """Yields what is found about Python, packages, GPU, memory, disk, tracking and the model."""
    hardware, model, output_dir = config.hardware, config.model, Path(config.output_dir).expanduser()

    @cache
    def plan() -> Plan:
        return plan_run(config, planned_device(hardware))

    def precision() -> str:
        return planned_device(hardware).precision(config.training.precision)

    needed = needed_extras(config)
    yield from findings_of("packages", lambda: check_packages(*declared_requirements(), needed))
    yield from findings_of("bitsandbytes", lambda: check_bitsandbytes("quantized" in needed))
    yield from findings_of("gpu", lambda: check_gpu(hardware, config.training.precision, visible_gpus()))
    yield from findings_of("attention", lambda: check_attention(config, precision()))
    yield from findings_of("memory", lambda: check_memory(plan()))
    num_cores = len(os.sched_getaffinity(0))
    yield from findings_of("container", lambda: check_limits(read_limits(), plan(), hardware, num_cores))
    yield from findings_of("disk", lambda: check_disk(output_dir, plan()))
    yield from findings_of("tracking", lambda: check_tracking(config.tracking, output_dir))
    yield from findings_of("model", lambda: check_model(model))
    yield from findings_of("model code", check_model_code)
