"""`benchmarks/gpu.py` with tiny networks on the CPU: every row is there, and the plan is what was counted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.py"
ROWS = ("base, full", "large, full", "XL, low memory", "XXL, low memory", "XXL, LoRA")


@pytest.mark.long
def test_every_row_is_planned_and_counted():
    done = subprocess.run(
        [
            sys.executable,
            str(SCRIPT),
            "--device",
            "cpu",
            "--model-scale",
            "tiny",
            "--hardware",
            "rtx5090",
            "--against",
            "trainer",
        ],
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])},
        capture_output=True,
        text=True,
        timeout=280,
        check=True,
    )
    header, *rows = done.stdout.splitlines()
    assert header.split() == ["batch", "micro-batch", "planned", "actual", "reserved", "recipes/s", "of", "peak"]
    trainer = [row for row in rows if "Seq2SeqTrainer" in row]
    rows = [row for row in rows if row not in trainer]
    assert len(rows) == len(ROWS)
    assert len(trainer) == 3
    for row in trainer:
        assert re.search(r"ours is \d+\.\d\d times as fast$", row), row
    for name, row in zip(ROWS, rows, strict=True):
        assert name in row
        *_, difference, recipes_per_second, share = row.split()
        assert abs(float(difference.rstrip("%"))) <= 10, row
        assert float(recipes_per_second.replace(",", "")) > 0
        assert share.endswith("%")
