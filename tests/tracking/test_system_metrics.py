from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from recipe_exp.tracking import system_metrics
from recipe_exp.tracking.events import Metrics, read_events
from recipe_exp.tracking.system_metrics import SystemSampler


def test_the_tree_of_the_process_is_measured(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys; block = bytearray(60_000_000)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'b = bytearray(60_000_000)\\nwhile True: pass'])\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read(); child.kill()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        sampler = SystemSampler(tmp_path / "system.jsonl", process.pid, time.time())
        sampler._measure_tree()
        time.sleep(0.7)
        values = sampler.sample()
    finally:
        process.communicate(b"")
    assert 10 < float(values["system/cpu_percent"]) < 250
    assert float(values["system/memory_megabytes"]) > 120


def test_samples_are_events_with_the_run_s_age_as_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_metrics, "SAMPLE_EVERY_SECONDS", 0.05)
    path = tmp_path / "system.jsonl"
    path.write_bytes(b'{"torn')
    sampler = SystemSampler(path, 1, time.time() - 100)
    sampler.start()
    deadline = time.monotonic() + 5
    while not list(read_events(path)) and time.monotonic() < deadline:
        time.sleep(0.02)
    sampler.stop()
    event = next(read_events(path))
    assert isinstance(event, Metrics)
    assert 100 <= event.step <= 110
    assert all(name.startswith("system/") for name in event.metrics)


def test_a_process_that_is_gone_is_no_error(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    values = SystemSampler(tmp_path / "s", gone.pid, 0.0).sample()
    assert values["system/cpu_percent"] == 0.0
