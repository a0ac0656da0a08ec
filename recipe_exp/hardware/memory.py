"""Running out of a device's memory, noticed and told from other errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from recipe_exp import kept_memory

# PyTorch's allocator for the CPU has no error class of its own.
_CPU_MESSAGE = "can't allocate memory"


class OutOfMemoryError(Exception):
    """The device's memory was full. What was being computed is lost, what was there before is not."""


@contextmanager
def out_of_memory_noticed() -> Iterator[None]:
    """Turns running out of memory inside, on any device, into `OutOfMemoryError`.

    Raises:
        OutOfMemoryError: the device's memory was full.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and _CPU_MESSAGE not in str(error):
            raise
        raise OutOfMemoryError(str(error).partition("\n")[0]) from error


def release_memory() -> None:
    """Hands what is kept for later back to the device."""
    kept_memory.release()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
