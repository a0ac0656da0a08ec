from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from recipe_exp.config.hardware import HardwareConfig
from recipe_exp.errors import HardwareError
from recipe_exp.hardware import detect
from recipe_exp.hardware.machinery import Machinery
from recipe_exp.hardware.matrix_peak import bf16_speedup


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the driver answer for a number of GPUs."""

    def install(count: int, capability: tuple[int, int] = (8, 9)) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Test card")

    return install


def test_the_device_is_what_is_there(gpus: Any) -> None:
    gpus(0)
    assert detect.resolve_device("auto") == detect.resolve_device("cpu") == "cpu"
    with pytest.raises(HardwareError, match=r"hardware\.device=cuda") as caught:
        detect.resolve_device("cuda")
    assert "\n" not in str(caught.value)
    gpus(1)
    assert detect.resolve_device("auto") == detect.resolve_device("cuda") == "cuda"
    assert detect.resolve_device("cpu") == "cpu"


def test_there_are_no_more_processes_than_gpus(gpus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(2)
    auto, three = HardwareConfig(num_processes="auto"), HardwareConfig(num_processes=3)
    assert detect.resolve_num_processes(auto, "cuda") == 2
    assert detect.resolve_num_processes(auto, "cpu") == 1
    assert detect.resolve_num_processes(three, "cpu") == 3
    with pytest.raises(HardwareError, match=r"hardware\.num_processes=3: .*2 visible"):
        detect.resolve_num_processes(three, "cuda")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert detect.resolve_num_processes(three, "cuda") == 8, "torchrun has decided"


def test_processes_share_the_cores() -> None:
    cores = len(os.sched_getaffinity(0))
    assert detect.resolve_num_threads(HardwareConfig(), 1) == cores
    assert detect.resolve_num_threads(HardwareConfig(), cores) == 1
    assert detect.resolve_num_threads(HardwareConfig(), 10 * cores) == 1
    assert detect.resolve_num_threads(HardwareConfig(num_threads=5), 2) == 5


def test_precision_is_what_the_device_is_fast_at(gpus: Any) -> None:
    gpus(1, (8, 0))
    assert detect.resolve_precision("auto", "cuda") == "bf16"
    assert detect.resolve_precision("tf32", "cuda") == "tf32"
    assert detect.resolve_precision("bf16", "cpu") == "bf16"
    with pytest.raises(HardwareError, match=r"training\.precision=tf32"):
        detect.resolve_precision("tf32", "cpu")
    gpus(1, (7, 5))
    assert detect.resolve_precision("auto", "cuda") == "fp32"
    for precision in ("bf16", "tf32"):
        with pytest.raises(HardwareError, match=rf"training\.precision={precision}: Test card lacks it"):
            detect.resolve_precision(precision, "cuda")


def test_a_cpu_takes_bf16_where_it_has_units_and_they_are_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert detect.resolve_precision("auto", "cpu") == ("bf16" if bf16_speedup("cpu") > 1.25 else "fp32")
    monkeypatch.setattr(detect, "bf16_speedup", lambda _: 0.5)
    assert detect.resolve_precision("auto", "cpu") == "fp32"
    monkeypatch.setattr(detect, "bf16_speedup", lambda _: 2.0)
    assert detect.resolve_precision("auto", "cpu") == "bf16"
    assert detect.resolve_precision("fp32", "cpu") == "fp32"
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert detect.resolve_precision("auto", "cpu") == "fp32"
    assert detect.resolve_precision("bf16", "cpu") == "bf16"


@pytest.mark.parametrize(("flops", "has_compiler"), [(1e15, True), (1e15, False), (1e9, True)])
def test_a_long_run_is_compiled_where_there_is_a_compiler(
    monkeypatch: pytest.MonkeyPatch, flops: float, has_compiler: bool
) -> None:
    monkeypatch.setattr(detect.shutil, "which", lambda _: "/usr/bin/g++" if has_compiler else None)
    assert detect.resolve_compile("auto", "cpu", flops) == (flops > 1e14 and has_compiler)
    assert detect.resolve_compile(True, "cpu", 0.0)
    assert not detect.resolve_compile(False, "cpu", 1e30)


def test_memory_is_as_configured_or_as_found() -> None:
    assert detect.device_memory_bytes(HardwareConfig(memory_gb=1.5), "cpu") == 1.5 * 2**30
    found = detect.device_memory_bytes(HardwareConfig(), "cpu")
    assert 0 < found <= psutil.virtual_memory().total


@pytest.mark.parametrize(("configured", "counted"), [(32, 24), (20, 20), (None, 24)])
def test_a_gpu_counts_with_no_more_than_it_has(
    monkeypatch: pytest.MonkeyPatch, configured: float | None, counted: int
) -> None:
    card = SimpleNamespace(total_memory=24 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    assert detect.device_memory_bytes(HardwareConfig(memory_gb=configured), "cuda") == counted * 2**30


def test_machinery_survives_being_stored() -> None:
    machinery = Machinery("cpu", detect.device_name("cpu"), 2**30, 1, 2, "fp32", "eager", 4096)
    assert Machinery(**machinery.to_dict()) == machinery
    assert str(len(os.sched_getaffinity(0))) in machinery.device_name
