"""Memory of tensors on a CPU that is kept when they are let go of, for the next of about their size.

The C library hands blocks of 32 MiB and more back to the system at once, and the system clears every page that it gives
anew. A step makes several such tensors, of the same sizes each time, as soon as a vocabulary is large. It also hands
back what is free above the last block in use as soon as that is 64 MiB, which most activations are after a step.
"""

from __future__ import annotations

import ctypes
import math
import os
import weakref
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

MIN_KEPT_BYTES = 32 * 2**20
"""Smaller blocks are handed out again by the C library itself."""
_ALIGNMENT = 64
_MAX_FREE_BYTES = 512 * 2**20
# Of glibc's `mallopt`.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

_free: defaultdict[int, list[npt.NDArray[np.uint8]]] = defaultdict(list)


def empty(shape: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Returns a tensor whose numbers are whatever was there, in kept memory if it is large and on a CPU.

    Its memory is free for the next tensor once the last tensor over it is gone. Sizes of blocks are powers of two; what
    is never written of one takes no memory.

    Raises:
        MemoryError: if there is no room, on a CPU.
    """
    num_bytes = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or num_bytes < MIN_KEPT_BYTES:
        return torch.empty(shape, dtype=dtype, device=device)
    size = 1 << (num_bytes - 1).bit_length()
    free = _free[size]
    block = free.pop() if free else np.empty(size + _ALIGNMENT, np.uint8)
    begin = -block.ctypes.data % _ALIGNMENT
    lent: npt.NDArray[Any] = block[begin : begin + num_bytes]
    # The tensor's storage holds this array, and nothing else does.
    weakref.finalize(lent, free.append, block).atexit = False
    return torch.from_numpy(lent).view(dtype).view(tuple(shape))


def keep_what_is_freed() -> None:
    """Lets the C library keep up to 512 MiB of what smaller tensors let go of, where it is glibc.

    A limit of the user's own, `MALLOC_TRIM_THRESHOLD_`, stays.
    """
    mallopt = _of_c_library("mallopt")
    if mallopt is None or "MALLOC_TRIM_THRESHOLD_" in os.environ:
        return
    # Setting one limit keeps the other from adapting, so that is set to where it would end.
    mallopt(_M_MMAP_THRESHOLD, MIN_KEPT_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _MAX_FREE_BYTES)


def release() -> None:
    """Hands memory that no tensor uses back to the system."""
    # What is lent comes back to lists that nothing refers to any more.
    _free.clear()
    trim = _of_c_library("malloc_trim")
    if trim is not None:
        trim(0)


def _of_c_library(name: str) -> Any:
    """Returns a function of the C library, None where it has no such."""
    return getattr(ctypes.CDLL(None), name, None)
