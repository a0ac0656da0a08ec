"""What else the machine did while something was measured."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

_STAT = Path("/proc/stat")
# proc_stat(5): idle and iowait are the columns in which a core does nothing.
_IDLE_COLUMNS = (3, 4)
# guest and guest_nice are counted in user and nice already.
_NUM_COLUMNS = 8


class ForeignLoad:
    """Watches from now on which share of the machine's cores others than this process and its children take."""

    def __init__(self) -> None:
        self._begin = time.perf_counter()
        self._busy, self._own = _busy_seconds(), _own_seconds()

    def share(self) -> float | None:
        """Returns the share since it was made, of all cores; None where the system does not tell.

        Children count once they have ended.
        """
        busy = _busy_seconds()
        if busy is None or self._busy is None:
            return None
        seconds = (time.perf_counter() - self._begin) * (os.cpu_count() or 1)
        return max(busy - self._busy - (_own_seconds() - self._own), 0.0) / seconds


def _busy_seconds() -> float | None:
    """Seconds that all cores together were busy since the machine began."""
    if not _STAT.is_file():
        return None
    columns = [int(word) for word in _STAT.read_text(encoding="ascii").split("\n")[0].split()[1 : _NUM_COLUMNS + 1]]
    busy = sum(columns) - sum(columns[column] for column in _IDLE_COLUMNS)
    return busy / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)
