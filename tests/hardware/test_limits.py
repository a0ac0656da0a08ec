from __future__ import annotations

from pathlib import Path

import pytest

from recipe_exp.hardware.limits import Limits, available_memory_bytes, read_limits

GIB = 1024**3


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cgroup"


def limits(root: Path, membership: str, files: dict[str, str]) -> Limits:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    path = root.with_name("membership")
    path.write_text(membership)
    return read_limits(root, path)


def test_second_version_in_a_container(root: Path) -> None:
    files = {"cpu.max": "250000 100000", "memory.max": str(8 * GIB)}
    assert limits(root, "0::/\n", files) == Limits(2.5, 8 * GIB)


def test_second_version_without_limits(root: Path) -> None:
    assert limits(root, "0::/\n", {"cpu.max": "max 100000", "memory.max": "max"}) == Limits(None, None)


def test_the_narrowest_group_around_a_process_counts(root: Path) -> None:
    files = {
        "user.slice/cpu.max": "400000 100000",
        "user.slice/memory.max": str(4 * GIB),
        "user.slice/job/cpu.max": "max 100000",
        "user.slice/job/memory.max": str(6 * GIB),
        "other.slice/memory.max": str(GIB),
    }
    assert limits(root, "0::/user.slice/job\n", files) == Limits(4.0, 4 * GIB)


@pytest.mark.parametrize("name", ["cpu,cpuacct", "cpu"])
def test_first_version(root: Path, name: str) -> None:
    files = {
        f"{name}/docker/abc/cpu.cfs_quota_us": "150000",
        f"{name}/docker/abc/cpu.cfs_period_us": "100000",
        "memory/docker/abc/memory.limit_in_bytes": str(3 * GIB),
        "memory/memory.limit_in_bytes": "9223372036854771712",
    }
    membership = "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/\n"
    assert limits(root, membership, files) == Limits(1.5, 3 * GIB)


def test_first_version_without_limits(root: Path) -> None:
    files = {
        "cpu/cpu.cfs_quota_us": "-1",
        "cpu/cpu.cfs_period_us": "100000",
        "memory/memory.limit_in_bytes": "9223372036854771712",
    }
    assert limits(root, "4:memory:/\n3:cpu:/\n", files) == Limits(None, None)


def test_a_path_of_the_machine_means_the_mount_in_a_container(root: Path) -> None:
    files = {"memory/memory.limit_in_bytes": str(2 * GIB)}
    assert limits(root, "4:memory:/docker/of/the/machine\n", files) == Limits(None, 2 * GIB)


def test_no_control_groups_and_broken_ones_are_no_limit(root: Path) -> None:
    assert read_limits(root, root / "nowhere") == Limits(None, None)
    assert limits(root, "half\n0::/../..\n", {"cpu.max": "a b", "memory.max": ""}) == Limits(None, None)


def test_this_process_has_limits_that_can_be_read() -> None:
    found = read_limits()
    assert found.cpus is None or found.cpus > 0
    assert found.memory_bytes is None or found.memory_bytes > 0


def test_no_more_memory_is_available_than_the_container_lets_a_process_use() -> None:
    assert available_memory_bytes(Limits(None, 1234)) == 1234
    assert available_memory_bytes(Limits(None, None)) > 1234
