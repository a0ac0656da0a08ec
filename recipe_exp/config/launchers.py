"""`hydra/launcher`: where the trials of a sweep run, how many at once, and what each of them is given there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator

from recipe_exp.config.base import Count, Section, Text
from recipe_exp.config.messages import mistakes_of, show_setting

PREFIX = "hydra.launcher."
DEFAULT_LAUNCHER = "recipe_exp"


class ProcessSlots(Section):
    """Trials are processes of this machine, which the slots divide."""

    slots: int = 1
    """How many trials run at once."""

    @field_validator("slots", mode="before")
    @classmethod
    def _refuse_no_number(cls, slots: object) -> object:
        if type(slots) is not int or slots < 1:
            raise ValueError("must be a number of trials, 1 or more")
        return slots


class SubmititLocalJobs(ProcessSlots):
    """Trials are jobs of submitit's on this machine: what they are on a cluster, without one."""

    cpus_per_task: Count = 1
    """CPU threads of a trial whose `hardware.num_threads` is `auto`."""
    gpus_per_node: Annotated[int, Field(ge=0, le=1_000)] = 0
    """GPUs of a trial."""
    timeout_min: Count = 60
    """Minutes until a trial is stopped; it goes on with the same command."""
    signal_delay_s: Count = 120
    """Seconds before that, in which a trial writes its checkpoint."""


class SubmititSlurmJobs(SubmititLocalJobs):
    """Trials are jobs of a Slurm cluster, each of one task on one node; the keys are named as submitit's are."""

    cpus_per_task: Count = 4
    """CPUs of a job, and threads of a trial whose `hardware.num_threads` is `auto`."""
    mem_gb: Count | None = None
    """Memory of a job in GiB; null leaves it to the cluster."""
    partition: Text | None = None
    """Where jobs are queued; null leaves it to the cluster."""
    account: Text | None = None
    """Who pays."""
    qos: Text | None = None
    """Quality of service."""
    constraint: Text | None = None
    """Features that the nodes must have."""


class RayTasks(ProcessSlots):
    """Trials are tasks of a Ray cluster; the keys are named as Ray's are."""

    address: Text | None = None
    """Of the cluster, or `auto`; null starts one on this machine for the time of the sweep."""
    num_cpus: Count = 1
    """CPUs of a task, and threads of a trial whose `hardware.num_threads` is `auto`."""
    num_gpus: Annotated[int, Field(ge=0, le=1_000)] = 0
    """GPUs of a task."""


LAUNCHERS: dict[str, type[ProcessSlots]] = {
    DEFAULT_LAUNCHER: ProcessSlots,
    "submitit_slurm": SubmititSlurmJobs,
    "submitit_local": SubmititLocalJobs,
    "ray": RayTasks,
}
"""Every option of the group with its keys."""

LAUNCHER_KEYS = frozenset(f"{PREFIX}{name}" for section in LAUNCHERS.values() for name in section.model_fields)


def find_wrong_setting(launcher: str, key: str, value: Any) -> list[str]:
    """Returns the mistake of a setting that the launcher lacks or whose value it refuses.

    Args:
        launcher: the chosen option.
        key: one of `LAUNCHER_KEYS`.
        value: what it is given.
    """
    name = key.removeprefix(PREFIX)
    if name not in LAUNCHERS[launcher].model_fields:
        owners = [option for option, section in LAUNCHERS.items() if name in section.model_fields]
        return [f"{show_setting(key, value)}: a key of hydra/launcher={' or '.join(owners)}; choose that first"]
    return find_wrong_settings(launcher, {name: value})


def find_wrong_settings(launcher: str, settings: Mapping[str, Any]) -> list[str]:
    """Returns one line for each setting that the launcher refuses."""
    try:
        LAUNCHERS[launcher].model_validate(dict(settings))
    except ValidationError as error:
        return [f"{PREFIX}{line}" for line in mistakes_of(error)]
    return []
