"""The benchmark of training speed, with arms of seconds: what it prints means something only with larger ones."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "train_throughput.py"


@pytest.mark.long
def test_arms_learn_the_same_from_the_same(tmp_path: Path) -> None:
    options = ("--model", "t5_tiny", "--examples", "8", "--batch-size", "4", "--rounds", "1", "--threads", "1")
    command = [sys.executable, str(SCRIPT), *options, "--json", str(tmp_path / "figures.json"), "--max-foreign", "1"]
    arms = ("--arms", "ours", "default", "padded", "--prefix", "nice -n 1")
    done = subprocess.run([*command, *arms, "data.max_examples=60"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "round 1/1: ours " in done.stdout
    assert "1,000 or more tell more" in done.stdout
    found = json.loads((tmp_path / "figures.json").read_text())
    assert set(found["ratios"]) == {"default", "padded"}
    assert all(ratio > 0 for ratio in found["ratios"].values())
    # Two steps without dropout: batches are made up of other recipes, so the losses are alike and no more.
    assert set(found["losses"]) == {"ours", "default", "padded"}
    assert found["first_loss"] == pytest.approx(math.log(1024), rel=0.2)
    for loss in found["losses"].values():
        assert loss < found["first_loss"]
        assert loss == pytest.approx(found["losses"]["ours"], rel=0.05)
    # 256 + 512 positions for every recipe of some hundred tokens.
    assert found["padding_share"]["padded"] > 0.5 > found["padding_share"]["default"]
    assert 0.0 < found["share_of_fp32_peak"]["ours"] < 1.0
    assert found["matrix_peak_gflops"]["fp32"] > 0
