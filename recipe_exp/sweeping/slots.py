"""A slot's part of the machine: CPU threads, GPUs and their memory."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from recipe_exp.config.hardware import HardwareConfig

_GIB = 1024**3


@dataclass(frozen=True)
class Share:
    """A slot's part of the machine, as overrides and environment variables of its trials."""

    overrides: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Machine:
    """What slots divide among themselves.

    Attributes:
        num_slots: how many trials run at once.
        cores_per_trial: CPU threads of a trial whose `hardware.num_threads` is `auto`. Fixed when the sweep begins and
            stored with it: threads change the last digits, and the number of slots may differ the next time.
        gpus: as `CUDA_VISIBLE_DEVICES` names them.
        gpu_bytes: memory of the smallest of them.
    """

    num_slots: int
    cores_per_trial: int
    gpus: Sequence[str] = ()
    gpu_bytes: int = 0


def cores_per_slot(num_slots: int) -> int:
    """Returns the cores that this process may use, divided evenly among slots."""
    return max(len(os.sched_getaffinity(0)) // num_slots, 1)


def visible_gpus() -> list[str]:
    """Returns the GPUs that trials may be given, as `CUDA_VISIBLE_DEVICES` names them, without initializing CUDA."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        # By UUID, because the driver and CUDA number the GPUs in different orders.
        query = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
        try:
            named = ",".join(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split())
        except (OSError, subprocess.SubprocessError):
            return []
    gpus = [gpu.strip() for gpu in named.split(",")]
    # CUDA ignores everything from the first invalid name on; "-1" is the usual way to hide all GPUs.
    end = next((index for index, gpu in enumerate(gpus) if gpu in ("", "-1")), len(gpus))
    return gpus[:end]


def share_of_machine(slot: int, machine: Machine, hardware: HardwareConfig) -> Share:
    """Returns the part of the machine for a trial in one of several slots.

    Threads are an override and not `OMP_NUM_THREADS`, because the trial sets PyTorch's threads from its configuration,
    and because they change numbers in the last bits: the trial's stored configuration has to say how many there were.
    Each slot gets as many GPUs as a trial has processes; with fewer GPUs than that, slots take turns, and trials that
    may meet on a GPU plan with an even part of its memory.
    """
    overrides: tuple[str, ...] = ()
    if hardware.num_threads == "auto":
        num_processes = 1 if hardware.num_processes == "auto" else hardware.num_processes
        overrides = (f"hardware.num_threads={max(machine.cores_per_trial // num_processes, 1)}",)
    num_gpus = len(machine.gpus)
    if hardware.device == "cpu" or num_gpus == 0 or machine.num_slots == 1:
        return Share(overrides)
    even_share = max(num_gpus // machine.num_slots, 1)
    wanted = even_share if hardware.num_processes == "auto" else hardware.num_processes
    given = min(wanted, num_gpus)
    num_sharing = -(-machine.num_slots * given // num_gpus)
    if num_sharing > 1 and hardware.memory_gb is None and machine.gpu_bytes:
        overrides += (f"hardware.memory_gb={machine.gpu_bytes / num_sharing / _GIB:.3f}",)
    if num_gpus == 1:
        return Share(overrides)
    chosen = [machine.gpus[(slot * given + offset) % num_gpus] for offset in range(given)]
    return Share(overrides, {"CUDA_VISIBLE_DEVICES": ",".join(chosen)})
