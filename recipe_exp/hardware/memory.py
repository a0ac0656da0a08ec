"""What a run says when the device's memory is full."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from recipe_exp.errors import TrainingError

# PyTorch's allocator for the CPU has no error class of its own.
_CPU_MESSAGE = "can't allocate memory"


@contextmanager
def out_of_memory_in_one_line(remedy: str) -> Iterator[None]:
    """Turns running out of memory inside into one line with a remedy.

    Raises:
        TrainingError: the device's memory was full.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and _CPU_MESSAGE not in str(error):
            raise
        raise TrainingError(f"out of memory; {remedy}") from error
