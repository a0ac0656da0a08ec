from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from recipe_exp.hardware.matrix_peak import bf16_speedup, matrix_peak, measure_matrix_peak


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_peak_is_operations_over_the_fastest_product(precision: str) -> None:
    size = (128, 96, 64)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    left, right = torch.ones(128, 96, dtype=dtype), torch.ones(96, 64, dtype=dtype)
    seconds = []
    for _ in range(200):
        begin = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - begin)
    by_hand = 2 * 128 * 96 * 64 / min(seconds)
    assert measure_matrix_peak("cpu", precision, [size], seconds_per_size=0.1) == pytest.approx(by_hand, rel=1.0)


def test_the_fastest_size_counts() -> None:
    small, large = (8, 8, 8), (256, 256, 256)
    both = measure_matrix_peak("cpu", "fp32", [small, large], seconds_per_size=0.05)
    assert both > 2 * measure_matrix_peak("cpu", "fp32", [small], seconds_per_size=0.05)


def test_a_measurement_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    measure_matrix_peak("cpu", "fp32", [(8, 8, 8)], seconds_per_size=0.0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_machine_is_measured_once(tmp_path: Path) -> None:
    first = matrix_peak(tmp_path / "cache", "cpu", "fp32")
    assert first > 0
    assert matrix_peak(tmp_path / "cache", "cpu", "fp32") == first
    other = matrix_peak(tmp_path / "cache", "cpu", "bf16")
    assert {matrix_peak(tmp_path / "cache", "cpu", precision) for precision in ("fp32", "bf16")} == {first, other}


@pytest.mark.parametrize("content", ["{", "[1]", '{"a": "b"}'])
def test_a_damaged_file_is_measured_anew(tmp_path: Path, content: str) -> None:
    (tmp_path / "matrix_peaks.json").write_text(content)
    assert matrix_peak(tmp_path, "cpu", "fp32") == matrix_peak(tmp_path, "cpu", "fp32") > 0


def test_a_folder_that_cannot_be_written_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert matrix_peak(tmp_path / "file", "cpu", "fp32") > 0


def test_bf16_is_held_against_fp32() -> None:
    size = [(512, 512, 512)]
    apart = [measure_matrix_peak("cpu", precision, size, seconds_per_size=0.3) for precision in ("bf16", "fp32")]
    assert bf16_speedup("cpu") == pytest.approx(apart[0] / apart[1], rel=0.5)
