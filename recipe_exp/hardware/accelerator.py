"""One Accelerator for one job, whatever ran in this process before."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list
from torch import distributed

from recipe_exp.errors import HardwareError, RecipeExpError
from recipe_exp.hardware.processes import is_worker
from recipe_exp.kept_memory import keep_what_is_freed
from recipe_exp.signals import Interrupted

_SECONDS_TO_LET_GO = 0.2


def create_accelerator(*, device: str, precision: str, num_threads: int) -> Accelerator:
    """Returns an Accelerator for one job.

    Accelerate keeps its state in singletons; they are reset first, so that an earlier job in the same process, such as
    a run in a notebook, changes nothing here. PyTorch's numeric settings are set along with it.

    Args:
        device: `cpu` or `cuda`.
        precision: `fp32`, `tf32` or `bf16`.
        num_threads: of PyTorch on the CPU.
    """
    _reset_singletons()
    torch.set_num_threads(num_threads)
    if device == "cpu":
        keep_what_is_freed()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    return Accelerator(
        cpu=device == "cpu",
        mixed_precision="bf16" if precision == "bf16" else "no",
        step_scheduler_with_optimizer=False,
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )


def from_main_process(produce: Callable[[], Any], *, device: str) -> Any:
    """Returns on every process what `produce` returns on the main one; an error of the main one ends all.

    Args:
        produce: called on the main process only.
        device: where the processes compute, which decides how they talk.
    """
    if not is_worker():
        return produce()
    state = PartialState(cpu=device == "cpu")
    outcome: list[Any] = [None, None]
    failure: BaseException | None = None
    if state.is_main_process:
        try:
            outcome[0] = produce()
        except (RecipeExpError, Interrupted) as error:
            failure = outcome[1] = error
        except BaseException as error:
            failure, outcome[1] = error, HardwareError(f"the main process failed: {type(error).__name__}")
    broadcast_object_list(outcome)
    if failure is not None:
        raise failure
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def sum_over_processes(accelerator: Accelerator, values: Sequence[float]) -> list[float]:
    """Returns the elementwise sum over all processes."""
    if accelerator.num_processes == 1:
        return list(values)
    summed = torch.tensor(values, dtype=torch.float64, device=accelerator.device)
    distributed.all_reduce(summed)
    return [float(value) for value in summed.tolist()]


def largest_over_processes(accelerator: Accelerator, value: int) -> int:
    """Returns the largest value of any process."""
    if accelerator.num_processes == 1:
        return value
    largest = torch.tensor(value)
    distributed.all_reduce(largest, op=distributed.ReduceOp.MAX, group=_host_group())
    return int(largest)


@cache
def _host_group() -> distributed.ProcessGroup:
    # Every step asks: by the group of the devices, the host would wait for the device each time.
    group: distributed.ProcessGroup = distributed.new_group(backend="gloo")
    return group


def leave_processes() -> None:
    """Ends the process group, if there is one."""
    if distributed.is_available() and distributed.is_initialized():
        # Gloo's threads need the interpreter's lock to let go of the last exchange's tensors. Whoever drops the last
        # reference to the group, such as a data-parallel model at exit, joins them with that lock held: a deadlock.
        time.sleep(_SECONDS_TO_LET_GO)
        _host_group.cache_clear()
        distributed.destroy_process_group()


def _reset_singletons() -> None:
    AcceleratorState._reset_state(reset_partial_state=not is_worker())
    GradientState._reset_state()
