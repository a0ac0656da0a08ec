from __future__ import annotations

import json
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from recipe_exp.data.tokens.token_files import TokenSplit, token_bytes
from recipe_exp.hardware.processes import run_processes

WORKER = Path(__file__).parent / "window_in_processes.py"
# (batch size, micro-batch tokens): one micro-batch each, many, one process without work, an odd number of examples.
CUTS = [(16, 10**6), (16, 60), (1, 60), (3, 30)]


@dataclass
class Outcome:
    """What one process found."""

    tensors: dict[str, torch.Tensor]
    facts: dict[str, Any]

    @classmethod
    def read(cls, folder: Path, name: str) -> Outcome:
        facts = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        return cls(load_file(folder / f"{name}.safetensors"), facts)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Runs the same windows in two real processes over gloo and in one."""
    folder = tmp_path_factory.mktemp("processes")
    rng = np.random.default_rng(11)

    def texts(longest: int) -> list[list[int]]:
        return [[*rng.integers(3, 60, length).tolist(), 1] for length in rng.integers(1, longest, 24)]

    (folder / "tokens").mkdir()
    for name, content in token_bytes([texts(14)], texts(40), 0).items():
        (folder / "tokens" / name).write_bytes(content)
    assert len(TokenSplit(folder / "tokens", pad_id=0)) == 24
    command = [sys.executable, str(WORKER), str(folder / "tokens"), str(folder), json.dumps(CUTS)]
    assert run_processes(command, 2) == 0
    runpy.run_path(str(WORKER))["main"](folder / "tokens", folder, CUTS)
    return {name: Outcome.read(folder, name) for name in ("0", "1", "alone")}


@pytest.mark.parametrize("number", range(len(CUTS)))
def test_two_processes_find_the_loss_and_gradient_of_one(outcomes: dict[str, Outcome], number: int) -> None:
    alone = outcomes["alone"].tensors
    expected = alone[f"{number}.gradient"]
    assert expected.norm() > 0
    for name in ("0", "1"):
        found = outcomes[name].tensors
        assert float(found[f"{number}.loss"]) == pytest.approx(float(alone[f"{number}.loss"]), rel=1e-5)
        assert (found[f"{number}.gradient"] - expected).norm() <= 1e-5 * expected.norm()
        assert float(found[f"{number}.norm"]) == pytest.approx(float(alone[f"{number}.norm"]), rel=1e-5)


@pytest.mark.parametrize("number", range(len(CUTS)))
def test_both_processes_hold_the_same_bits_after_the_step(outcomes: dict[str, Outcome], number: int) -> None:
    assert torch.equal(outcomes["0"].tensors[f"{number}.weights"], outcomes["1"].tensors[f"{number}.weights"])


def test_the_windows_were_cut_as_meant(outcomes: dict[str, Outcome]) -> None:
    parts = [[outcomes[name].facts[f"{number}.parts"] for name in ("0", "1")] for number in range(len(CUTS))]
    assert all(len(first) == len(second) for first, second in parts), "collective calls must match"
    assert parts[0] == [[False], [False]]
    assert len(parts[1][0]) >= 4
    assert sorted(parts[2]) == [[False], [True]], "one process has nothing to do"


def test_processes_agree_on_what_one_of_them_knows(outcomes: dict[str, Outcome]) -> None:
    for name in ("0", "1"):
        facts = outcomes[name].facts
        assert facts["num_processes"] == 2
        assert facts["from_main"] == "from 0"
        assert facts["error"] == "the main process found no data"
        assert facts["sum"] == [3.0, 1.0]
        assert facts["largest"] == 10
        assert facts["stops_before"] is False
        assert facts["stops"] is True
        assert facts["reason"] == "SIGTERM"
    assert outcomes["alone"].facts["num_processes"] == 1
    assert outcomes["alone"].facts["sum"] == [1.0, 0.5]
