"""The machine as a run uses it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Machinery:
    """Everything about the machine that `auto` stands for, resolved.

    Two runs of one configuration with equal machinery give equal numbers on a CPU; it is stored with the run, and a
    resumed run reads it from there instead of asking the machine again.

    Attributes:
        device: `cpu` or `cuda`.
        device_name: as the driver or the operating system calls it.
        memory_bytes: memory of one device.
        num_processes: data-parallel processes.
        num_threads: threads of PyTorch on the CPU, for each process.
        precision: `fp32`, `tf32` or `bf16`.
        attention: the attention kernel, as in `model.attention`.
        micro_batch_tokens: tokens of one forward and backward pass.
        is_compiled: whether elementwise arithmetic is compiled.
        attention_reason: why this kernel, in a few words.
    """

    device: str
    device_name: str
    memory_bytes: int
    num_processes: int
    num_threads: int
    precision: str
    attention: str
    micro_batch_tokens: int
    is_compiled: bool = False
    attention_reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain data."""
        return asdict(self)
