"""What `auto` stands for on this machine: its device, memory, cores, and the precision it computes fast."""

from __future__ import annotations

import importlib.util
import os
import shutil
from typing import Literal

import torch

from recipe_exp.config.hardware import HardwareConfig
from recipe_exp.errors import HardwareError
from recipe_exp.hardware.limits import available_memory_bytes
from recipe_exp.hardware.matrix_peak import bf16_speedup

GIB = 1024**3
# Ten minutes of two CPU cores and of a large GPU: compiling takes one or two, and saves a fifth or so of the rest.
_WORTH_COMPILING_FLOPS = {"cpu": 3e13, "cuda": 3e16}
# Casting weights and the arithmetic that stays in fp32 take some of the gain back.
_WORTH_BF16 = 1.25


def resolve_device(device: Literal["auto", "cpu", "cuda"]) -> str:
    """Returns `cpu` or `cuda`.

    Raises:
        HardwareError: if a GPU is asked for and PyTorch sees none.
    """
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise HardwareError(
            "hardware.device=cuda: PyTorch sees no GPU; task=doctor says why, hardware=cpu trains without one"
        )
    return "cuda" if available and device != "cpu" else "cpu"


def resolve_num_processes(hardware: HardwareConfig, device: str) -> int:
    """Returns the number of data-parallel processes: under torchrun its world size, else the configured number.

    Raises:
        HardwareError: if more processes than GPUs are asked for.
    """
    if "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    num_gpus = torch.cuda.device_count() if device == "cuda" else 0
    if hardware.num_processes == "auto":
        return max(num_gpus, 1)
    if device == "cuda" and hardware.num_processes > num_gpus:
        raise HardwareError(
            f"hardware.num_processes={hardware.num_processes}: this machine has {num_gpus} visible GPU(s); "
            "lower it or take hardware.num_processes=auto"
        )
    return hardware.num_processes


def resolve_num_threads(hardware: HardwareConfig, num_processes: int) -> int:
    """Returns PyTorch's threads for each process: the configured number, or the usable cores divided evenly."""
    if hardware.num_threads != "auto":
        return hardware.num_threads
    return max(len(os.sched_getaffinity(0)) // num_processes, 1)


def resolve_precision(precision: str, device: str) -> str:
    """Returns `fp32`, `tf32` or `bf16`; `auto` is bf16 where its products are faster than those of fp32.

    They are on GPUs since Ampere. CPUs with units for them, AVX512-BF16 or AMX, are timed, since on some that have the
    former fp32 is twice as fast.

    Raises:
        HardwareError: if the GPU lacks the precision asked for.
    """
    has_bf16 = device == "cuda" and torch.cuda.get_device_capability() >= (8, 0)
    if precision == "auto":
        return "bf16" if has_bf16 or (device == "cpu" and _is_cpu_faster_in_bf16()) else "fp32"
    if device == "cuda" and precision in ("bf16", "tf32") and not has_bf16:
        raise HardwareError(
            f"training.precision={precision}: {torch.cuda.get_device_name()} lacks it (it came with Ampere); use fp32"
        )
    if device == "cpu" and precision == "tf32":
        raise HardwareError("training.precision=tf32: only NVIDIA GPUs have it; use fp32 on a CPU")
    return precision


def _is_cpu_faster_in_bf16() -> bool:
    has_units = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return bool(has_units) and bf16_speedup("cpu") > _WORTH_BF16


def resolve_compile(compile: Literal["auto", True, False], device: str, training_flops: float) -> bool:
    """Returns whether elementwise arithmetic is compiled: as configured, or where it can be and pays.

    Args:
        compile: as configured.
        device: resolved.
        training_flops: arithmetic of the whole run; 0 where nothing is trained.
    """
    if compile != "auto":
        return compile
    return training_flops > _WORTH_COMPILING_FLOPS[device] and _has_compiler(device)


def _has_compiler(device: str) -> bool:
    if device == "cuda":
        return importlib.util.find_spec("triton") is not None
    return any(shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++") if name)


def device_memory_bytes(hardware: HardwareConfig, device: str) -> int:
    """Returns the memory of one device in bytes: as configured, else the GPU's, else what the CPU has available.

    A GPU never counts with more than it has.
    """
    configured = None if hardware.memory_gb is None else int(hardware.memory_gb * GIB)
    if device == "cuda":
        total = int(torch.cuda.get_device_properties(0).total_memory)
        return total if configured is None else min(configured, total)
    return available_memory_bytes() if configured is None else configured


def device_name(device: str) -> str:
    """Returns the device's name as the driver or the operating system gives it."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU with {len(os.sched_getaffinity(0))} usable cores"
