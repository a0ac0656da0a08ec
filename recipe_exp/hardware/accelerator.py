"""One Accelerator for one job, whatever ran in this process before."""

from __future__ import annotations

import os

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedDataParallelKwargs

from recipe_exp.hardware.detect import Machinery


def create_accelerator(machinery: Machinery) -> Accelerator:
    """Returns an Accelerator for this machinery.

    Accelerate keeps its state in singletons; they are reset first, so that an earlier job in the same process, such as
    a run in a notebook, changes nothing here. The numeric settings of PyTorch are set along with it.
    """
    _reset_singletons()
    torch.set_num_threads(machinery.num_threads)
    torch.set_float32_matmul_precision("high" if machinery.precision == "tf32" else "highest")
    return Accelerator(
        cpu=machinery.device == "cpu",
        mixed_precision="bf16" if machinery.precision == "bf16" else "no",
        step_scheduler_with_optimizer=False,
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )


def _reset_singletons() -> None:
    is_worker = "WORLD_SIZE" in os.environ
    AcceleratorState._reset_state(reset_partial_state=not is_worker)
    GradientState._reset_state()
    if not is_worker:
        PartialState._reset_state()
