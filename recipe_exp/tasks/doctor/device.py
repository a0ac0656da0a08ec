"""The GPU, what PyTorch can do on it, and whether the planned run fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, get_args

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.hardware import HardwareConfig
from recipe_exp.config.model import ModelConfig
from recipe_exp.files import size_text
from recipe_exp.hardware.limits import Limits
from recipe_exp.planning.device import Gpu
from recipe_exp.planning.plan import Plan
from recipe_exp.tasks.doctor.findings import Finding, Status
from recipe_exp.tasks.plan import setup_of

if TYPE_CHECKING:
    import torch

# A card of N GB shows up to this much less: gigabytes of 10^9 bytes, and what the driver keeps.
_CARD_TOLERANCE = 0.9
# What PyTorch and the libraries take before a model is there.
_PROCESS_BYTES = 1.5 * 1024**3


def check_gpu(hardware: HardwareConfig, precision: str, gpus: list[Gpu]) -> Iterator[Finding]:
    """Yields rows for PyTorch's build, the GPU it sees, its architecture and bf16.

    Args:
        hardware: what the configuration asks for.
        precision: as configured.
        gpus: what the driver reports.
    """
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    sees_gpu = torch.cuda.is_available()
    yield Finding("torch", *_torch_build(f"{torch.__version__}, {build}", bool(torch.version.cuda), sees_gpu, gpus))
    if not sees_gpu:
        if hardware.device == "cuda":
            yield Finding("gpu", "fail", "none that PyTorch sees", "add hardware=cpu, or repair what stands above")
        elif not gpus:
            yield Finding("gpu", "ok", "none; training runs on the CPU")
        return
    properties = torch.cuda.get_device_properties(0)
    yield _check_card(hardware, str(properties.name), int(properties.total_memory))
    yield check_architecture(torch.cuda.get_device_capability(), torch.cuda.get_arch_list())
    yield check_bf16(torch.cuda.get_device_capability(), precision)


def check_architecture(capability: tuple[int, int], architectures: list[str]) -> Finding:
    """Returns whether PyTorch's binaries run on a GPU of this compute capability.

    Code for a capability runs on later minor ones of the same major; PTX (`compute_NN`) is compiled for any later GPU.

    Args:
        capability: such as (12, 0).
        architectures: as `torch.cuda.get_arch_list()` gives them, such as `sm_120` or `compute_90`.
    """
    major, minor = capability
    wanted = f"sm_{major}{minor}"
    kinds = [
        (kind, int(number.rstrip("abcdef"))) for kind, _, number in (name.partition("_") for name in architectures)
    ]
    has_binary = any(kind == "sm" and n // 10 == major and n % 10 <= minor for kind, n in kinds)
    has_ptx = any(kind == "compute" and n <= 10 * major + minor for kind, n in kinds)
    if has_binary:
        return Finding("architecture", "ok", f"{wanted} is in PyTorch's build")
    if has_ptx:
        return Finding("architecture", "warn", f"{wanted} is compiled at first use, which takes minutes")
    return Finding(
        "architecture",
        "fail",
        f"{wanted} is not in PyTorch's build ({', '.join(architectures)})",
        "install a PyTorch built for a later CUDA version",
    )


def check_bf16(capability: tuple[int, int], precision: str) -> Finding:
    """Returns whether a GPU of this compute capability computes in bf16, and whether that matters.

    Args:
        capability: such as (8, 0), the first that does.
        precision: as configured.
    """
    has_bf16 = capability >= (8, 0)
    if has_bf16 or precision == "fp32":
        return Finding("bf16", "ok", "on tensor cores" if has_bf16 else "not there and not used")
    status: Status = "fail" if precision in ("bf16", "tf32") else "warn"
    return Finding("bf16", status, "not on this GPU, which is older than Ampere", "add training.precision=fp32")


def check_attention(config: ExperimentConfig, precision: str) -> Iterator[Finding]:
    """Yields a row for each attention kernel: whether a tiny T5 gives the loss and gradients of the plainest one.

    That one is `eager` in fp32 on the CPU, where additions are written out; padding, the position bias, the causal
    mask and the attention from decoder to encoder all take part.

    Args:
        config: which kernel is configured, for which network.
        precision: resolved, `fp32`, `tf32` or `bf16`.
    """
    from recipe_exp.hardware.detect import resolve_device
    from recipe_exp.models.attention_choice import choose_attention, loss_and_gradients, missing_for
    from recipe_exp.tasks.building import attention_setting

    device = resolve_device(config.hardware.device)
    setup = setup_of(config, precision, is_compiled=config.hardware.compile is not False)
    wanted = choose_attention(config.model.attention, attention_setting(setup, device)).kernel
    kind = "bf16" if precision == "bf16" else "fp32"
    reference = loss_and_gradients("eager", "cpu", "fp32")
    for kernel in get_args(ModelConfig.model_fields["attention"].annotation):
        if kernel != "auto" and missing_for(kernel, device, precision) is None:
            compute = partial(loss_and_gradients, kernel, device, kind)
            yield judge_attention(kernel, wanted, kind, compute, reference)


def judge_attention(
    kernel: str,
    wanted: str,
    precision: str,
    compute: Callable[[], torch.Tensor],
    reference: torch.Tensor,
) -> Finding:
    """Returns whether a kernel gives the reference's numbers.

    Args:
        kernel: its name.
        wanted: the one that a run would take.
        precision: `fp32` or `bf16`, in which it computes.
        compute: returns its loss and gradients, one behind the other.
        reference: the right ones.
    """
    subject, used = f"attention {kernel}", "this run takes it" if kernel == wanted else "this run does not take it"
    fix = "" if kernel != wanted else f"add model.attention={'eager' if kernel != 'eager' else 'sdpa'}"
    status: Status = "fail" if kernel == wanted else "warn"
    from recipe_exp.models.attention_choice import TOLERANCES

    try:
        found = compute()
    except Exception as error:  # whatever a kernel raises that was not built for this device
        reason = " ".join(str(error).split())[:120]
        return Finding(subject, status, f"does not run ({type(error).__name__}: {reason}); {used}", fix)
    difference = float((found - reference).norm() / reference.norm())
    if not difference <= TOLERANCES[precision]:
        return Finding(subject, status, f"gives other numbers, by {difference:.1e} in {precision}; {used}", fix)
    return Finding(subject, "ok", f"right to {max(difference, 1e-7):.0e} in {precision}; {used}")


def check_memory(plan: Plan) -> Finding:
    """Returns whether the planned run fits the device."""
    usable, device = size_text(plan.subject.usable_bytes), plan.subject.device
    found = f"{size_text(plan.peak_bytes)} planned of {usable} usable ({device})"
    if plan.fits:
        return Finding("memory", "ok", found)
    changes = [" ".join(change.overrides) for change in plan.advice]
    return Finding(
        "memory", "fail", found, f"add {changes[0]}" if changes else "take a smaller model; task=plan says why"
    )


def check_limits(limits: Limits, plan: Plan, hardware: HardwareConfig, num_cores: int) -> Iterator[Finding]:
    """Yields a row for each limit of the container: whether the run stays within it.

    Args:
        limits: of this process.
        plan: of the run.
        hardware: what the configuration asks for.
        num_cores: cores that the system lets this process run on, which a quota does not lower.
    """
    if limits.cpus is None and limits.memory_bytes is None:
        yield Finding("container", "ok", f"no limit of CPUs or memory; {num_cores} cores")
    if limits.cpus is not None:
        found = f"{limits.cpus:g} CPUs for {num_cores} cores"
        num_threads = num_cores if hardware.num_threads == "auto" else hardware.num_threads
        if num_threads > max(limits.cpus, 1):
            fix = f"add hardware.num_threads={max(int(limits.cpus), 1)}; more threads only wait for each other"
            yield Finding("container", "warn", f"{found}, and {num_threads} threads", fix)
        else:
            yield Finding("container", "ok", found)
    if limits.memory_bytes is not None:
        on_device = plan.peak_bytes if plan.subject.device == "cpu" else 4 * plan.subject.num_parameters
        needed = int(_PROCESS_BYTES + on_device)
        found = f"{size_text(limits.memory_bytes)} of memory; the run takes about {size_text(needed)} of it"
        if needed > limits.memory_bytes:
            fix = "raise the container's limit, or take a smaller model; the system kills what exceeds it"
            yield Finding("container", "fail", found, fix)
        else:
            yield Finding("container", "ok", found)


def _torch_build(build: str, is_cuda_build: bool, sees_gpu: bool, gpus: list[Gpu]) -> tuple[Status, str, str]:
    if not gpus or sees_gpu:
        driver = f", driver {gpus[0].driver}" if gpus else ""
        return "ok", build + driver, ""
    if not is_cuda_build:
        return "fail", f"{build}, but there is {gpus[0].name}", "install a CUDA build of PyTorch"
    found = f"{build}, driver {gpus[0].driver}, does not see {gpus[0].name}"
    return "fail", found, "update the driver to one that supports this CUDA version"


def _check_card(hardware: HardwareConfig, name: str, memory_bytes: int) -> Finding:
    found = f"{name}, {size_text(memory_bytes)}"
    if hardware.memory_gb is not None and memory_bytes < _CARD_TOLERANCE * hardware.memory_gb * 1024**3:
        wrong = f"{found}, but hardware.memory_gb={hardware.memory_gb:g}"
        return Finding("gpu", "fail", wrong, "choose the hardware=... of this card, or hardware=auto")
    return Finding("gpu", "ok", found)
