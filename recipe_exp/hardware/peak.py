"""The most memory that was in use at one time, as far as the device or the system tells."""

from __future__ import annotations

import re
import resource
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
# Written to `clear_refs`, it begins the highest resident size anew (proc(5)).
_RESET_PEAK = "5"
_KIB = 1024
_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


class PeakMemory:
    """Watches from now on what this process takes of a device's memory.

    Args:
        device: `cpu` or `cuda`.

    Attributes:
        meaning: what is counted, in words.
    """

    def __init__(self, device: str) -> None:
        self._is_cuda = device == "cuda"
        self._begin_bytes = 0
        self.meaning = "what PyTorch's allocator had given out on the GPU"
        if self._is_cuda:
            torch.cuda.reset_peak_memory_stats()
            return
        self.meaning = "resident memory of the process beyond that before the model was loaded"
        with suppress(OSError):
            _CLEAR.write_text(_RESET_PEAK, encoding="ascii")
        self._begin_bytes = int(psutil.Process().memory_info().rss)

    def read(self) -> int:
        """Returns the most bytes since it was made."""
        if self._is_cuda:
            return int(torch.cuda.max_memory_allocated())
        return max(_highest_resident_bytes() - self._begin_bytes, 0)


def _highest_resident_bytes() -> int:
    with suppress(OSError):
        found = _PEAK.search(_STATUS.read_text(encoding="ascii"))
        if found is not None:
            return int(found[1]) * _KIB
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest if sys.platform == "darwin" else highest * _KIB
