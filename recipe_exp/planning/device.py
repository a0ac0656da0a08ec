"""The device that a run would take, found without PyTorch: what is configured, else what the driver reports."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

from recipe_exp.config.hardware import HardwareConfig
from recipe_exp.hardware.limits import available_memory_bytes

_GIB = 1024**3
_MIB = 1024**2
_QUERY_SECONDS = 5.0
# bf16 on tensor cores came with Ampere.
_FIRST_BF16_CAPABILITY = 8.0


@dataclass(frozen=True)
class Gpu:
    """A GPU as `nvidia-smi` reports it.

    Attributes:
        name: of the product.
        memory_bytes: in all.
        free_bytes: not used by any program at present.
        capability: compute capability, such as 12.0; 0 if the driver does not tell.
        driver: version of the driver.
    """

    name: str
    memory_bytes: int
    free_bytes: int
    capability: float
    driver: str


@dataclass(frozen=True)
class PlannedDevice:
    """What `auto` stands for, as far as it can be known without loading PyTorch.

    Attributes:
        device: `cpu` or `cuda`.
        name: of the device, or what is configured of it; None where only its memory is.
        memory_bytes: of one device.
        free_bytes: of a GPU that is there, at present; None otherwise.
        num_devices: how many a run with `hardware.num_processes=auto` takes.
        has_bf16: whether `auto` precision is bf16.
    """

    device: str
    name: str | None
    memory_bytes: int
    free_bytes: int | None
    num_devices: int
    has_bf16: bool

    def precision(self, configured: str) -> str:
        """Returns `fp32`, `tf32` or `bf16`."""
        if configured != "auto":
            return configured
        return "bf16" if self.has_bf16 else "fp32"

    def attention(self, configured: str) -> str:
        """Returns a kernel; which one a GPU is fastest with is not known here, and is taken to be `sdpa`."""
        if configured in ("eager", "sdpa"):
            return configured
        if self.device != "cuda":
            return "eager"
        return "sdpa" if configured == "auto" else configured


def visible_gpus() -> list[Gpu]:
    """Returns the GPUs that the driver reports and CUDA_VISIBLE_DEVICES lets through; none without a driver."""
    fields = "name,memory.total,memory.free,compute_cap,driver_version"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_QUERY_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    gpus = [gpu for line in answer.stdout.splitlines() if (gpu := _parse(line)) is not None]
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return gpus
    indices = [int(part) for part in chosen.split(",") if part.strip().isdigit()]
    return [gpus[index] for index in indices if index < len(gpus)]


def planned_device(hardware: HardwareConfig) -> PlannedDevice:
    """Returns the device of a run: a configured memory stands for a device that need not be there.

    A GPU that is there and is the one that is described counts with the memory that it has.
    """
    configured = None if hardware.memory_gb is None else int(hardware.memory_gb * _GIB)
    gpus = [] if hardware.device == "cpu" else visible_gpus()
    is_described = hardware.device == "cuda" and configured is not None
    if gpus and not (is_described and is_other_card(hardware, gpus[0].name)):
        first = gpus[0]
        return PlannedDevice(
            device="cuda",
            name=first.name,
            memory_bytes=min(configured or first.memory_bytes, first.memory_bytes),
            free_bytes=first.free_bytes,
            num_devices=len(gpus),
            has_bf16=first.capability >= _FIRST_BF16_CAPABILITY,
        )
    if is_described:
        return PlannedDevice("cuda", hardware.card, configured or 0, None, 1, True)
    name = f"CPU with {len(os.sched_getaffinity(0))} usable cores"
    return PlannedDevice("cpu", name, configured or available_memory_bytes(), None, 1, False)


def is_other_card(hardware: HardwareConfig, name: str) -> bool:
    """Returns whether a GPU of this name is another than the one that `hardware` describes."""
    return hardware.card is not None and hardware.card.lower() not in name.lower()


def _parse(line: str) -> Gpu | None:
    fields = [field.strip() for field in line.split(",")]
    if len(fields) != 5:
        return None
    name, total, free, capability, driver = fields
    try:
        return Gpu(name, int(total) * _MIB, int(free) * _MIB, _number(capability), driver)
    except ValueError:
        return None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
