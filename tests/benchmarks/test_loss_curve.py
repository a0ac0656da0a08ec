"""The script itself, for a few steps of the tiny model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "loss_curve.py"


@pytest.mark.slow
def test_a_run_learns_as_a_plain_loop_does() -> None:
    command = [sys.executable, str(SCRIPT), "--model", "t5_tiny", "--steps", "12", "--warmup-steps", "6"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    header, *rows = [line.split() for line in answer.stdout.splitlines()]
    assert header == ["step", "ours", "plain", "loop", "one", "window", "curve", "rounding"]
    assert [row[0] for row in rows] == ["1", "3", "6", "9", "12", "most"]
    # It does learn, and from the second step on it depends on the updates before.
    assert float(rows[4][1]) < float(rows[0][1]) - 0.1
    window, curve, rounding = (float(word) for word in rows[-1][1:])
    assert max(window, curve, rounding) < 1e-5
    assert rounding > 0.0
