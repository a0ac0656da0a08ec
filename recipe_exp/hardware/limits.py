"""What a container lets its processes use of the machine: the limits of their control groups."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_ROOT = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
# The first version of control groups writes a huge number where there is no limit.
_NO_LIMIT_BYTES = 2**60


@dataclass(frozen=True)
class Limits:
    """The narrowest limits of a process's control group and of those around it.

    Attributes:
        cpus: CPUs that all its processes together may keep busy; None without a limit.
        memory_bytes: None without a limit.
    """

    cpus: float | None
    memory_bytes: int | None


def read_limits(root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> Limits:
    """Returns the limits of this process, whichever version of control groups the system has.

    Args:
        root: where control groups are mounted.
        membership: which ones the process is in, in the format of `/proc/self/cgroup`.
    """
    cpus: list[float] = []
    memory: list[int] = []
    for controllers, path in _memberships(membership):
        for folder in _folders(root, controllers, path):
            cpus += _cpus_of(folder)
            memory += [*_numbers(folder, "memory.max"), *_numbers(folder, "memory.limit_in_bytes")]
    memory = [limit for limit in memory if limit < _NO_LIMIT_BYTES]
    return Limits(min(cpus, default=None), min(memory, default=None))


def available_memory_bytes(limits: Limits | None = None) -> int:
    """Returns the memory that this process may still take: what the machine has available, within the limits.

    Args:
        limits: of its control group; None reads them.
    """
    limits = limits or read_limits()
    available = int(psutil.virtual_memory().available)
    return available if limits.memory_bytes is None else min(available, limits.memory_bytes)


def _memberships(membership: Path) -> Iterator[tuple[str, str]]:
    """Yields (controllers, path) of each group: `cpu,cpuacct` in the first version, nothing in the second."""
    with suppress(OSError):
        for line in membership.read_text(encoding="utf-8").splitlines():
            _, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            yield controllers, path


def _folders(root: Path, controllers: str, path: str) -> Iterator[Path]:
    """Yields the group's folder and those around it, up to the mount.

    In a container the path is often that of the machine; then only the mount itself is there, which is the group.
    """
    names = ["", "unified"] if not controllers else [controllers, *controllers.split(",")]
    for mount in (root / name for name in names):
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            folder = mount.joinpath(*parts[:depth])
            if folder.is_dir():
                yield folder


def _cpus_of(folder: Path) -> list[float]:
    """Returns the CPUs of a group in a list; an empty one where it has no limit."""
    both = _numbers(folder, "cpu.max")
    quota = both or [*_numbers(folder, "cpu.cfs_quota_us"), *_numbers(folder, "cpu.cfs_period_us")]
    return [quota[0] / quota[1]] if len(quota) == 2 and min(quota) > 0 else []


def _numbers(folder: Path, name: str) -> list[int]:
    """Returns the numbers in a file; none where there is no such file, or the word `max`."""
    with suppress(OSError, ValueError):
        return [int(word) for word in (folder / name).read_text(encoding="utf-8").split()]
    return []
