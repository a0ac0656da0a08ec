from __future__ import annotations

import os
from pathlib import Path

import pytest

from recipe_exp.config.hardware import HardwareConfig
from recipe_exp.sweeping.slots import Machine, Share, cores_per_slot, share_of_machine, visible_gpus

GIB = 1024**3


def shares(slots: int, hardware: HardwareConfig, gpus: list[str], gpu_bytes: int = 0) -> list[Share]:
    machine = Machine(slots, 4, gpus, gpu_bytes)
    return [share_of_machine(slot, machine, hardware) for slot in range(slots)]


def gpus_of(slots: int, hardware: HardwareConfig, gpus: list[str]) -> list[str | None]:
    return [share.environment.get("CUDA_VISIBLE_DEVICES") for share in shares(slots, hardware, gpus)]


def test_cores_are_divided_and_each_slot_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert [cores_per_slot(slots) for slots in (1, 2, 3, 16)] == [8, 4, 2, 1]


@pytest.mark.parametrize(
    ("hardware", "expected"),
    [
        (HardwareConfig(), ("hardware.num_threads=4",)),
        (HardwareConfig(num_processes=2), ("hardware.num_threads=2",)),
        (HardwareConfig(num_processes=9), ("hardware.num_threads=1",)),
        (HardwareConfig(num_threads=7), ()),
    ],
)
@pytest.mark.parametrize("slots", [1, 2, 5])
def test_threads_are_those_of_the_sweep_whatever_the_number_of_slots(
    slots: int, hardware: HardwareConfig, expected: tuple[str, ...]
) -> None:
    assert {share.overrides for share in shares(slots, hardware, [])} == {expected}


def test_slots_get_gpus_of_their_own_and_take_turns_when_there_are_too_few() -> None:
    four = ["a", "b", "c", "d"]
    assert gpus_of(2, HardwareConfig(), four) == ["a", "b"]
    assert gpus_of(2, HardwareConfig(num_processes="auto"), four) == ["a,b", "c,d"]
    assert gpus_of(2, HardwareConfig(num_processes=2), four) == ["a,b", "c,d"]
    assert gpus_of(3, HardwareConfig(), four[:2]) == ["a", "b", "a"]
    assert gpus_of(2, HardwareConfig(device="cpu"), four) == [None, None]
    assert gpus_of(2, HardwareConfig(), four[:1]) == [None, None]
    assert gpus_of(1, HardwareConfig(), four) == [None]


@pytest.mark.parametrize(
    ("slots", "num_gpus", "hardware", "expected"),
    [
        (2, 2, HardwareConfig(num_threads=1), ()),
        (2, 1, HardwareConfig(num_threads=1), ("hardware.memory_gb=12.000",)),
        (3, 2, HardwareConfig(num_threads=1), ("hardware.memory_gb=12.000",)),
        (3, 1, HardwareConfig(num_threads=1), ("hardware.memory_gb=8.000",)),
        (2, 2, HardwareConfig(num_threads=1, num_processes=2), ("hardware.memory_gb=12.000",)),
        (2, 1, HardwareConfig(num_threads=1, memory_gb=20.0), ()),
        (2, 1, HardwareConfig(num_threads=1, device="cpu"), ()),
    ],
)
def test_trials_that_meet_on_a_gpu_plan_with_a_part_of_its_memory(
    slots: int, num_gpus: int, hardware: HardwareConfig, expected: tuple[str, ...]
) -> None:
    found = shares(slots, hardware, ["a", "b"][:num_gpus], 24 * GIB)
    assert {share.overrides for share in found} == {expected}


@pytest.mark.parametrize(("value", "expected"), [("", []), ("-1", []), ("3", ["3"]), ("1, GPU-x,-1,2", ["1", "GPU-x"])])
def test_visible_gpus_are_those_that_cuda_would_see(
    monkeypatch: pytest.MonkeyPatch, value: str, expected: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert visible_gpus() == expected


def test_gpus_are_named_by_uuid_and_absent_without_a_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == []
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho GPU-1\necho GPU-2\n")
    driver.chmod(0o755)
    assert visible_gpus() == ["GPU-1", "GPU-2"]
