from __future__ import annotations

import pytest
import torch

from recipe_exp.errors import DataError
from recipe_exp.hardware.accelerator import (
    create_accelerator,
    from_main_process,
    largest_over_processes,
    leave_processes,
    sum_over_processes,
)


def test_an_earlier_job_in_the_process_changes_nothing() -> None:
    first = create_accelerator(device="cpu", precision="bf16", num_threads=1)
    first.gradient_accumulation_steps = 4
    assert first.mixed_precision == "bf16"
    second = create_accelerator(device="cpu", precision="fp32", num_threads=1)
    assert second.mixed_precision == "no"
    assert second.gradient_accumulation_steps == 1
    assert second.device.type == "cpu"
    weight = torch.ones(2, 2)
    with second.autocast():
        assert (weight @ weight).dtype == torch.float32
    third = create_accelerator(device="cpu", precision="bf16", num_threads=1)
    with third.autocast():
        assert (weight @ weight).dtype == torch.bfloat16


def test_torch_computes_as_asked() -> None:
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        create_accelerator(device="cpu", precision="fp32", num_threads=2)
        assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == (2, "highest")
        create_accelerator(device="cpu", precision="tf32", num_threads=1)
        assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == (1, "high")
    finally:
        torch.set_num_threads(before[0])
        torch.set_float32_matmul_precision(before[1])


def test_one_process_is_its_own_main_process() -> None:
    accelerator = create_accelerator(device="cpu", precision="fp32", num_threads=1)
    assert sum_over_processes(accelerator, (1.5, 2)) == [1.5, 2]
    assert largest_over_processes(accelerator, 3) == 3
    assert from_main_process(lambda: {"path": 1}, device="cpu") == {"path": 1}

    def refuse() -> None:
        raise DataError("no data")

    with pytest.raises(DataError, match="no data"):
        from_main_process(refuse, device="cpu")
    leave_processes()
