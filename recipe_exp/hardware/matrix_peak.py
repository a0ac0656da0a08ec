"""How fast the device at hand multiplies matrices: what the speed of training is held against."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch

MatrixSize = tuple[int, int, int]
"""(rows, inner, columns) of a product of a (rows, inner) matrix with an (inner, columns) one."""

GENERAL_SIZES: dict[str, tuple[MatrixSize, ...]] = {
    "cpu": ((512, 512, 512), (1024, 512, 1024)),
    "cuda": ((8192, 8192, 8192), (16384, 4096, 4096)),
}
_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}
_SECONDS_PER_SIZE = 0.05
_MIN_REPEATS = 3
_TURNS = 8
_PEAKS_FILE = "matrix_peaks.json"
_CPU_NAME = re.compile(r"^model name\s*:\s*(.+)$", re.MULTILINE)


def matrix_peak(folder: Path, device: str, precision: str) -> float:
    """Returns the peak of this machine in operations a second; it is measured once and kept in a file.

    Args:
        folder: where `matrix_peaks.json` is; remove it to have the machine measured again.
        device: `cpu` or `cuda`.
        precision: `fp32`, `tf32` or `bf16`.
    """
    path, name = folder / _PEAKS_FILE, f"{_machine(device)}, {precision}, torch {torch.__version__}"
    known: dict[str, float] = {}
    with suppress(OSError, ValueError, TypeError, AttributeError):
        known = {str(key): float(value) for key, value in json.loads(path.read_text(encoding="utf-8")).items()}
    if name not in known:
        known[name] = measure_matrix_peak(device, precision)
        # A disk that refuses, or half a file that a kill left, only means that the next run measures again.
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    return known[name]


def _machine(device: str) -> str:
    """Returns what tells this machine from others that may share the folder."""
    if device == "cuda":
        return f"{socket.gethostname()}, {torch.cuda.get_device_name()}"
    found = None
    with suppress(OSError):
        found = _CPU_NAME.search(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    return f"{socket.gethostname()}, {found[1] if found else 'CPU'}, {torch.get_num_threads()} threads"


def measure_matrix_peak(
    device: str, precision: str, sizes: Sequence[MatrixSize] = (), *, seconds_per_size: float = _SECONDS_PER_SIZE
) -> float:
    """Returns the most floating-point operations a second that a matrix product reaches here.

    A multiplication and an addition are two operations. Each size is repeated for a moment, and the fastest single
    product counts, so that what else the machine does hardly matters. PyTorch's numeric settings are as they are.

    Args:
        device: `cpu` or `cuda`.
        precision: `fp32`, `tf32` or `bf16`.
        sizes: what is multiplied, the network's own for instance; empty takes sizes that any device is fast at.
        seconds_per_size: how long each size is repeated.
    """
    dtype = _DTYPES[precision]
    return max(_fastest(device, dtype, size, seconds_per_size) for size in sizes or GENERAL_SIZES[device])


@cache
def bf16_speedup(device: str) -> float:
    """Returns how many times as fast as in fp32 a matrix product is in bf16 here.

    The two take turns for some hundredths of a second, once a process, and the fastest of each counts, so that a busy
    machine gives the answer of an idle one.

    Args:
        device: `cpu` or `cuda`.
    """
    size = GENERAL_SIZES[device][0]
    products = {dtype: _product(device, dtype, size) for dtype in (torch.float32, torch.bfloat16)}
    seconds = dict.fromkeys(products, float("inf"))
    for _ in range(_TURNS):
        for dtype, multiply in products.items():
            seconds[dtype] = min(seconds[dtype], _time_once(device, multiply))
    return seconds[torch.float32] / seconds[torch.bfloat16]


def _fastest(device: str, dtype: torch.dtype, size: MatrixSize, seconds: float) -> float:
    rows, inner, columns = size
    multiply = _product(device, dtype, size)
    fastest, num_repeats, end = float("inf"), 0, time.perf_counter() + seconds
    while num_repeats < _MIN_REPEATS or time.perf_counter() < end:
        fastest = min(fastest, _time_once(device, multiply))
        num_repeats += 1
    return 2.0 * rows * inner * columns / fastest


def _product(device: str, dtype: torch.dtype, size: MatrixSize) -> Callable[[], object]:
    """Returns what multiplies two matrices, once done already."""
    rows, inner, columns = size
    # Numbers of their own, so that the random state of a run stays as it is.
    left = torch.linspace(-1.0, 1.0, rows * inner, device=device).reshape(rows, inner).to(dtype)
    right = torch.linspace(-1.0, 1.0, inner * columns, device=device).reshape(inner, columns).to(dtype)
    product = torch.empty(rows, columns, device=device, dtype=dtype)

    def multiply() -> None:
        torch.mm(left, right, out=product)

    multiply()
    return multiply


def _time_once(device: str, multiply: Callable[[], object]) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    multiply()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin
