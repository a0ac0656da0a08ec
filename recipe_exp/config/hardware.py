"""`hardware.`: the machine. Nothing here changes what is learnt, only how fast and in how much memory."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from recipe_exp.config.base import Count, Section, Text


class HardwareConfig(Section):
    """The machine that a run uses, and how."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes the GPU if PyTorch sees one."""
    num_processes: Count | Literal["auto"] = 1
    """Data-parallel processes on this machine; `auto` is one for every visible GPU."""
    micro_batch_tokens: Annotated[int, Field(ge=16, le=1_000_000_000)] | Literal["auto"] = "auto"
    """Source and target tokens that one forward and backward pass may hold; `auto` fills the memory."""
    memory_gb: Annotated[float, Field(gt=0.0, le=1e6)] | None = None
    """Memory of one device in GiB; null asks the device. A GPU that has less counts with what it has."""
    card: Text | None = None
    """Part of the name of the GPU that these settings describe; training on another is warned of. Null takes any."""
    on_oversize: Literal["refuse", "warn"] = "refuse"
    """A run that does not fit by its plan: `refuse` ends it before the model is loaded, `warn` tries it."""
    peak_tflops: Annotated[float, Field(ge=1e-6, le=1e9)] | None = None
    """Dense bf16 matrix peak of one device, for time estimates; null leaves them out."""
    num_workers: Count | Literal["auto"] = "auto"
    """Threads that tokenize the data; `auto` takes every core."""
    num_threads: Count | Literal["auto"] = "auto"
    """Threads of PyTorch on the CPU, for each process; `auto` divides the cores."""
    stall_timeout_minutes: Annotated[float, Field(gt=0.0, le=1e6)] | None = 30.0
    """A run that gets nothing done for this long (a dead network disk, a hung GPU) writes where it hangs to `stall.txt`
    in its folder and ends with exit code 75, which is worth repeating with `resume=latest`. null waits for ever."""
    profile_steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Record so many steps with PyTorch's profiler, after the first three, into `profile/` in the run folder; null
    records none. `debug=profile` is a short run that does."""
    compile: Literal["auto", True, False] = "auto"
    """Fuse the model's elementwise arithmetic with torch.compile, which takes a minute or two the first time; `auto`
    does where there is a compiler and the run is long enough for that to pay."""
