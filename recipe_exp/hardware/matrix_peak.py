"""How fast the device at hand multiplies matrices: what the speed of training is held against."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

MatrixSize = tuple[int, int, int]
"""(rows, inner, columns) of a product of a (rows, inner) matrix with an (inner, columns) one."""

GENERAL_SIZES: dict[str, tuple[MatrixSize, ...]] = {
    "cpu": ((1024, 1024, 1024), (2048, 512, 2048)),
    "cuda": ((8192, 8192, 8192), (16384, 4096, 4096)),
}
_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}
_SECONDS_PER_SIZE = 0.25
_MIN_REPEATS = 3


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


def _fastest(device: str, dtype: torch.dtype, size: MatrixSize, seconds: float) -> float:
    rows, inner, columns = size
    # Numbers of their own, so that the random state of a run stays as it is.
    left = torch.linspace(-1.0, 1.0, rows * inner, device=device).reshape(rows, inner).to(dtype)
    right = torch.linspace(-1.0, 1.0, inner * columns, device=device).reshape(inner, columns).to(dtype)
    product = torch.empty(rows, columns, device=device, dtype=dtype)
    time_once = _time_on_gpu if device == "cuda" else _time_on_cpu
    time_once(lambda: torch.mm(left, right, out=product))
    fastest, num_repeats, end = float("inf"), 0, time.perf_counter() + seconds
    while num_repeats < _MIN_REPEATS or time.perf_counter() < end:
        fastest = min(fastest, time_once(lambda: torch.mm(left, right, out=product)))
        num_repeats += 1
    return 2.0 * rows * inner * columns / fastest


def _time_on_cpu(multiply: Callable[[], object]) -> float:
    begin = time.perf_counter()
    multiply()
    return time.perf_counter() - begin


def _time_on_gpu(multiply: Callable[[], object]) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    multiply()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3
