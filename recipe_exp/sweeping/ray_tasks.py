"""Trials as tasks of a Ray cluster, or of one that is started on this machine for the time of the sweep."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from recipe_exp.config.launchers import RayTasks
from recipe_exp.errors import SweepError
from recipe_exp.signals import ENDING_SIGNALS
from recipe_exp.sweeping.remote import RemoteExecutor

_LOGGER = logging.getLogger(__name__)


class RayCluster:
    """A Ray cluster.

    Args:
        settings: where it is, and what each task is given.
    """

    def __init__(self, settings: RayTasks) -> None:
        self._settings = settings

    @property
    def cores(self) -> int:
        """CPU threads of a trial."""
        return self._settings.num_cpus

    @contextmanager
    def open(self, sweep: Path, owner: str) -> Iterator[RemoteExecutor]:
        """Yields what starts the tasks of a sweep.

        Raises:
            SweepError: the cluster does not answer, or this machine alone is to run what it has not enough of.
        """
        settings = self._settings
        _connect(settings.address)
        # A task that Ray starts again by itself would not know of the checkpoint that its trial goes on from.
        task = ray.remote(num_cpus=settings.num_cpus, num_gpus=settings.num_gpus, max_retries=0)(_run_command)

        def submit(folder: Path) -> _Task:
            return _Task(task.remote(sys.executable, str(folder), str(Path.cwd())))

        try:
            _check_room(settings)
            yield RemoteExecutor(sweep, owner, submit)
        finally:
            ray.shutdown()


def _connect(address: str | None) -> None:
    handlers = {number: signal.getsignal(number) for number in ENDING_SIGNALS}
    try:
        ray.init(
            address=address or "local",
            include_dashboard=False if address is None else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        what = f"hydra.launcher.address={address}" if address else "a local Ray"
        raise SweepError(f"{what}: does not answer: {' '.join(str(error).split())}") from error
    finally:
        # Ray ends its driver with SIGTERM, before the trials could write their checkpoints.
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _check_room(settings: RayTasks) -> None:
    """Refuses what a trial can never be given here; of a cluster, which may grow, it only says so."""
    wanted = {"CPU": settings.num_cpus, "GPU": settings.num_gpus}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(all(node.get(kind, 0) >= number for kind, number in wanted.items()) for node in nodes):
        return
    asked = f"hydra.launcher.num_cpus={settings.num_cpus} hydra.launcher.num_gpus={settings.num_gpus}"
    sizes = {f"{node.get('CPU', 0):.0f} CPUs and {node.get('GPU', 0):.0f} GPUs" for node in nodes}
    offered = "; ".join(sorted(sizes))
    if settings.address is None:
        raise SweepError(f"{asked}: this machine has {offered}; give a trial fewer, or hydra.launcher.address=...")
    _LOGGER.warning("%s: no node of the cluster has these (%s); trials wait until one joins", asked, offered)


def _run_command(python: str, job: str, folder: str) -> int:
    """Runs a job beside Ray's worker, whose end would otherwise be the trial's too."""
    command = [python, "-m", "recipe_exp.sweeping.job", job]
    with Path(job, "output.log").open("ab") as log:
        return subprocess.call(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )


class _Task:
    def __init__(self, reference: Any) -> None:
        self._reference = reference

    @property
    def name(self) -> str:
        return f"Ray's task {self._reference.task_id().hex()}"

    def is_over(self) -> bool:
        done, _ = ray.wait([self._reference], timeout=0)
        return bool(done)

    def cancel(self) -> None:
        ray.cancel(self._reference, force=True)
