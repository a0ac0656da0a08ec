"""Trials as jobs of Slurm, which submitit hands in; its executor of this machine does the same without a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import submitit

from recipe_exp.config.launchers import SubmititLocalJobs, SubmititSlurmJobs
from recipe_exp.errors import SweepError
from recipe_exp.sweeping.job import run_job
from recipe_exp.sweeping.remote import RemoteExecutor


class SubmititCluster:
    """Slurm, or this machine in its place.

    Args:
        settings: what each job is given.
    """

    def __init__(self, settings: SubmititLocalJobs) -> None:
        self._settings = settings

    @property
    def cores(self) -> int:
        """CPU threads of a trial."""
        return self._settings.cpus_per_task

    @contextmanager
    def open(self, sweep: Path, owner: str) -> Iterator[RemoteExecutor]:
        """Yields what hands in the jobs of a sweep."""
        yield RemoteExecutor(sweep, owner, self._submit)

    def _submit(self, folder: Path) -> _Job:
        try:
            return _Job(self._executor(folder).submit(run_job, folder))
        except (RuntimeError, OSError) as error:
            raise SweepError(f"the job cannot be handed in: {' '.join(str(error).split())}") from error

    def _executor(self, folder: Path) -> submitit.Executor:
        settings = self._settings
        is_slurm = isinstance(settings, SubmititSlurmJobs)
        # What submitit writes for a job, and what the job prints before its trial begins, is with the rest of it.
        executor = submitit.AutoExecutor(folder, cluster="slurm" if is_slurm else "local")
        executor.update_parameters(**common_parameters(settings))
        if isinstance(settings, SubmititSlurmJobs):
            executor.update_parameters(**slurm_parameters(settings, folder.name))
        return executor


def common_parameters(settings: SubmititLocalJobs) -> dict[str, Any]:
    """Returns what submitit is told on this machine too."""
    return {
        "timeout_min": settings.timeout_min,
        "cpus_per_task": settings.cpus_per_task,
        "gpus_per_node": settings.gpus_per_node,
    }


def slurm_parameters(settings: SubmititSlurmJobs, name: str) -> dict[str, Any]:
    """Returns what submitit is told for a job of this name."""
    chosen = {
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "constraint": settings.constraint,
    }
    return {
        "name": name,
        "nodes": 1,
        "tasks_per_node": 1,
        "slurm_signal_delay_s": settings.signal_delay_s,
        # A job that Slurm starts again by itself would not know of the checkpoint that its trial goes on from.
        "slurm_additional_parameters": {"no_requeue": True},
        **({"mem_gb": settings.mem_gb} if settings.mem_gb is not None else {}),
        **{f"slurm_{key}": value for key, value in chosen.items() if value is not None},
    }


class _Job:
    def __init__(self, job: submitit.Job[None]) -> None:
        self._job = job

    @property
    def name(self) -> str:
        return f"job {self._job.job_id}"

    def is_over(self) -> bool:
        return bool(self._job.done())

    def cancel(self) -> None:
        self._job.cancel(check=False)
