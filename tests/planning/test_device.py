"""Which device a plan is for, with a driver that is played by a script."""

from __future__ import annotations

import pytest

from recipe_exp.config.hardware import HardwareConfig
from recipe_exp.hardware.limits import Limits
from recipe_exp.planning.device import planned_device, visible_gpus

GIB = 1024**3
TWO_CARDS = "NVIDIA GeForce RTX 5090, 32607, 30000, 12.0, 580.65\\nQuadro RTX 6000, 24576, 24000, 7.5, 580.65\\n"


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Puts an nvidia-smi with this answer first on the path."""

    def install(answer, exit_code=0):
        script = tmp_path / "nvidia-smi"
        script.write_text(f"#!/bin/sh\nprintf '{answer}'\nexit {exit_code}\n")
        script.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    return install


def test_reads_what_the_driver_reports(driver):
    driver(TWO_CARDS)
    first, second = visible_gpus()
    assert (first.name, first.memory_bytes, first.free_bytes) == (
        "NVIDIA GeForce RTX 5090",
        32607 * 1024**2,
        30000 * 1024**2,
    )
    assert (first.capability, second.capability, first.driver) == (12.0, 7.5, "580.65")


def test_hidden_cards_are_not_counted(driver, monkeypatch):
    driver(TWO_CARDS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert [gpu.name for gpu in visible_gpus()] == ["Quadro RTX 6000"]
    assert planned_device(HardwareConfig()).precision("auto") == "fp32"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


@pytest.mark.parametrize("answer", ["", "No devices were found\\n", "a, b, c, d, e\\n"])
def test_an_answer_without_cards_means_the_cpu(driver, answer):
    driver(answer)
    device = planned_device(HardwareConfig())
    assert (device.device, device.precision("auto"), device.attention("auto")) == ("cpu", "fp32", "eager")
    assert device.memory_bytes > 0


def test_a_failing_driver_means_the_cpu(driver):
    driver(TWO_CARDS, exit_code=9)
    assert visible_gpus() == []


def test_a_card_that_is_there(driver):
    driver(TWO_CARDS)
    device = planned_device(HardwareConfig())
    assert (device.device, device.num_devices, device.free_bytes) == ("cuda", 2, 30000 * 1024**2)
    assert (device.precision("auto"), device.attention("auto")) == ("bf16", "sdpa")
    assert (device.precision("fp32"), device.attention("eager")) == ("fp32", "eager")


def test_a_described_card_need_not_be_there(driver):
    driver("")
    device = planned_device(HardwareConfig(device="cuda", memory_gb=32))
    assert (device.device, device.memory_bytes, device.precision("auto")) == ("cuda", 32 * GIB, "bf16")


def test_the_cpu_is_taken_when_asked_for(driver):
    driver(TWO_CARDS)
    assert planned_device(HardwareConfig(device="cpu", memory_gb=3)).memory_bytes == 3 * GIB


def test_a_card_that_is_there_counts_with_what_it_has(driver):
    driver(TWO_CARDS)
    device = planned_device(HardwareConfig(device="cuda", memory_gb=32, card="rtx 5090"))
    assert (device.name, device.memory_bytes) == ("NVIDIA GeForce RTX 5090", 32607 * 1024**2)
    assert device.free_bytes == 30000 * 1024**2


def test_a_plan_for_another_card_is_not_bound_by_the_one_that_is_there(driver):
    driver(TWO_CARDS)
    device = planned_device(HardwareConfig(device="cuda", memory_gb=80, card="H100"))
    assert (device.name, device.memory_bytes, device.free_bytes) == ("H100", 80 * GIB, None)


def test_a_container_bounds_the_memory_of_a_cpu(driver, monkeypatch):
    driver("")
    monkeypatch.setattr("recipe_exp.hardware.limits.read_limits", lambda: Limits(None, 3 * GIB))
    assert planned_device(HardwareConfig()).memory_bytes <= 3 * GIB
