from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from recipe_exp.config.compose import compose
from recipe_exp.config.hardware import HardwareConfig
from recipe_exp.sweeping import trials as trials_module
from recipe_exp.sweeping.grid import Trial
from recipe_exp.sweeping.trials import Share, StopSignals, TrialPool, share_of_machine, visible_gpus


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


def gpus_of(slots: int, hardware: HardwareConfig, gpus: list[str]) -> list[str | None]:
    shares = [share_of_machine(slot, slots, hardware, gpus) for slot in range(slots)]
    return [share.environment.get("CUDA_VISIBLE_DEVICES") for share in shares]


def test_one_slot_has_the_whole_machine(eight_cores: None) -> None:
    assert share_of_machine(0, 1, HardwareConfig(), ["0", "1"]) == Share()


@pytest.mark.parametrize(
    ("slots", "hardware", "expected"),
    [
        (2, HardwareConfig(), ("hardware.num_threads=4",)),
        (3, HardwareConfig(num_processes=2), ("hardware.num_threads=1",)),
        (16, HardwareConfig(), ("hardware.num_threads=1",)),
        (2, HardwareConfig(num_threads=7), ()),
    ],
)
def test_threads_are_divided_unless_they_were_chosen(
    eight_cores: None, slots: int, hardware: HardwareConfig, expected: tuple[str, ...]
) -> None:
    assert {share_of_machine(slot, slots, hardware, []).overrides for slot in range(slots)} == {expected}


def test_slots_get_gpus_of_their_own_and_take_turns_when_there_are_too_few() -> None:
    four = ["a", "b", "c", "d"]
    assert gpus_of(2, HardwareConfig(), four) == ["a", "b"]
    assert gpus_of(2, HardwareConfig(num_processes="auto"), four) == ["a,b", "c,d"]
    assert gpus_of(2, HardwareConfig(num_processes=2), four) == ["a,b", "c,d"]
    assert gpus_of(3, HardwareConfig(), four[:2]) == ["a", "b", "a"]
    assert gpus_of(2, HardwareConfig(device="cpu"), four) == [None, None]
    assert gpus_of(2, HardwareConfig(), four[:1]) == [None, None]


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


def test_signals_are_taken_once_and_handlers_given_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with StopSignals() as stop:
        assert stop.first is None
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.first == signal.SIGTERM
        assert stop.pending() == [signal.SIGTERM, signal.SIGINT]
        assert stop.pending() == []
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_trials_end_when_the_sweep_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose(["hardware=cpu"])
    started: list[Any] = []
    start = trials_module.subprocess.Popen

    def sleep(_command: list[str], **options: Any) -> Any:
        started.append(start(["sleep", "60" if len(started) == 0 else "0"], **options))
        return started[-1]

    monkeypatch.setattr(trials_module.subprocess, "Popen", sleep)

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    pool = TrialPool(2, tmp_path, {}, StopSignals())
    with pytest.raises(OSError, match="disk full"):
        pool.run([Trial(number, (), {}, config) for number in (1, 2)], lambda _: None, fail)
    assert [process.returncode for process in started] == [-signal.SIGTERM, 0]
