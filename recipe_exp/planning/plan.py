"""The plan of a training run: whether it fits, what would make it fit, and how long it takes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from recipe_exp.config.data import DataConfig
from recipe_exp.config.evaluation import EvaluationConfig
from recipe_exp.config.hardware import HardwareConfig
from recipe_exp.errors import HardwareError
from recipe_exp.planning import advice, fitting
from recipe_exp.planning.advice import Advice
from recipe_exp.planning.generation import estimate_generation, num_at_once
from recipe_exp.planning.held import checkpoint_bytes, tuned_groups
from recipe_exp.planning.learning_rates import learning_rate_warning
from recipe_exp.planning.lengths import Lengths, typical_batch
from recipe_exp.planning.memory import MemoryEstimate, estimate_batch, estimate_largest
from recipe_exp.planning.parameters import count_parameters
from recipe_exp.planning.remedies import Setup
from recipe_exp.planning.timing import MeasuredSpeed, Timing, estimate_timing


@dataclass(frozen=True)
class Machine:
    """The device of a plan, resolved.

    Attributes:
        device: `cpu` or `cuda`.
        attention: `eager` or `sdpa`.
        memory_bytes: of one device.
        measured: the speed of an earlier run on it; None assumes one.
    """

    device: str
    attention: str
    memory_bytes: int
    measured: MeasuredSpeed | None = None

    @property
    def usable_bytes(self) -> int:
        """The share of the memory that a plan may fill."""
        return int(fitting.USABLE_SHARE * self.memory_bytes)


@dataclass(frozen=True)
class Alternative:
    """The same run with gradient checkpointing the other way.

    Attributes:
        gradient_checkpointing: whether blocks are recomputed then.
        micro_batch_tokens: as configured, or what `auto` takes then.
        memory: at the fullest moment of a step, of the largest micro-batch.
        fits: whether that stays within what is usable.
        seconds_per_step: None where it is not known.
    """

    gradient_checkpointing: bool
    micro_batch_tokens: int
    memory: MemoryEstimate
    fits: bool
    seconds_per_step: float | None


@dataclass(frozen=True)
class Plan:
    """What a training run needs, known before anything is downloaded.

    Attributes:
        model: its name.
        num_parameters: of the whole network without an adapter.
        num_tuned_parameters: that training changes.
        device: `cpu` or `cuda`.
        precision: resolved.
        attention: resolved.
        gradient_checkpointing: whether blocks are recomputed.
        memory_bytes: of one device.
        usable_bytes: the share of it that a plan may fill.
        longest_example_tokens: the longest example of the data, or that `data` allows.
        lengths: where the lengths are from, in words.
        micro_batch_tokens: as configured, or what `auto` takes.
        memory: at the fullest moment of the run, of the largest micro-batch or of an evaluation.
        step: at the fullest moment of a step, of the largest micro-batch.
        typical: at the fullest moment of a typical step.
        generation: while an evaluation writes recipes; None without one.
        num_generated_at_once: recipes that it writes at the same time.
        alternative: the same run with gradient checkpointing the other way.
        fits: whether the fullest moment stays within `usable_bytes`.
        advice: changes that make it fit, cheapest first; empty if it does or nothing helps.
        leanest_overrides: the changes that need the least memory of all.
        leanest_memory_bytes: of the smallest device that can train this model with them.
        warnings: what is unusual, one line each.
        timing: how long it takes.
        checkpoint_bytes: of one checkpoint on disk.
        disk_bytes: of all checkpoints that are kept, while the next one is written.
    """

    model: str
    num_parameters: int
    num_tuned_parameters: int
    device: str
    precision: str
    attention: str
    gradient_checkpointing: bool
    memory_bytes: int
    usable_bytes: int
    longest_example_tokens: int
    lengths: str
    micro_batch_tokens: int
    memory: MemoryEstimate
    step: MemoryEstimate
    typical: MemoryEstimate
    generation: MemoryEstimate | None
    num_generated_at_once: int
    alternative: Alternative
    fits: bool
    advice: tuple[Advice, ...]
    leanest_overrides: tuple[str, ...]
    leanest_memory_bytes: int
    warnings: tuple[str, ...]
    timing: Timing
    checkpoint_bytes: int
    disk_bytes: int

    @property
    def peak_bytes(self) -> int:
        """Memory at the fullest moment of the run."""
        return self.memory.peak_bytes

    @property
    def parts(self) -> dict[str, int]:
        """The same by part."""
        return self.memory.parts

    @property
    def seconds_per_step(self) -> float | None:
        """Time of one optimizer step."""
        return self.timing.seconds_per_step

    @property
    def hours_per_epoch(self) -> float | None:
        """Time of one pass over the training split."""
        return self.timing.hours_per_epoch

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as plain data, memory and time on the top level."""
        data = asdict(self)
        del data["memory"], data["timing"]
        return data | asdict(self.memory) | {"peak_bytes": self.peak_bytes} | asdict(self.timing)


def build_plan(
    setup: Setup,
    hardware: HardwareConfig,
    data: DataConfig,
    evaluation: EvaluationConfig,
    machine: Machine,
    lengths: Lengths,
    *,
    micro_batch_tokens: int | None = None,
) -> Plan:
    """Returns the plan of a run, without weights, data or device.

    Args:
        setup: model, training and resolved precision.
        hardware: micro-batch, number of processes (resolved) and peak of the device.
        data: whether there is anything to evaluate, and how long an example may be.
        evaluation: how recipes are generated.
        machine: the device.
        lengths: of the training examples.
        micro_batch_tokens: what a run has found `hardware.micro_batch_tokens` to be; None finds it.
    """
    model, training = setup.model, setup.training
    tokens, step = _largest(setup, micro_batch_tokens or hardware.micro_batch_tokens, machine, lengths)
    generation = None
    if data.validation_fraction > 0.0:
        generation = estimate_generation(
            setup, evaluation, longest_source_tokens=data.max_source_tokens, device=machine.device
        )
    fullest = max([step, *([generation] if generation else [])], key=lambda estimate: estimate.peak_bytes)
    fits = fullest.peak_bytes <= machine.usable_bytes
    leanest, leanest_peak = fitting.leanest_change(
        setup, attention=machine.attention, device=machine.device, longest_example_tokens=lengths.longest_tokens
    )
    size = checkpoint_bytes(model, training)
    num_processes = hardware.num_processes if isinstance(hardware.num_processes, int) else 1
    warning = learning_rate_warning(model, training)
    return Plan(
        model=model.name,
        num_parameters=count_parameters(model.shape),
        num_tuned_parameters=sum(group.num_parameters for group in tuned_groups(model, training)),
        device=machine.device,
        precision=setup.precision,
        attention=machine.attention,
        gradient_checkpointing=model.gradient_checkpointing,
        memory_bytes=machine.memory_bytes,
        usable_bytes=machine.usable_bytes,
        longest_example_tokens=lengths.longest_tokens,
        lengths=lengths.origin,
        micro_batch_tokens=tokens,
        memory=fullest,
        step=step,
        typical=estimate_batch(
            setup,
            typical_batch(lengths, training.batch_size, _budget(setup, tokens), num_processes),
            attention=machine.attention,
            device=machine.device,
        ),
        generation=generation,
        num_generated_at_once=num_at_once(evaluation, data.max_source_tokens),
        alternative=_alternative(setup, hardware, machine, lengths),
        fits=fits,
        advice=() if fits else tuple(advice.find_advice(setup, hardware, data, evaluation, machine, lengths)),
        leanest_overrides=leanest,
        leanest_memory_bytes=math.ceil(leanest_peak / fitting.USABLE_SHARE),
        warnings=() if warning is None else (warning,),
        timing=estimate_timing(setup, hardware, lengths, machine.measured),
        checkpoint_bytes=size,
        disk_bytes=(training.keep_best_n_checkpoints + 2) * size,
    )


def _budget(setup: Setup, tokens: int) -> int | None:
    return None if setup.training.update_in_backward else tokens


def _largest(
    setup: Setup, tokens: int | Literal["auto"], machine: Machine, lengths: Lengths
) -> tuple[int, MemoryEstimate]:
    """Returns the budget that a run takes, or the least that it can take where not even that fits, and its memory."""
    if tokens == "auto":
        try:
            tokens = fitting.auto_micro_batch_tokens(
                setup.model,
                setup.training,
                precision=setup.precision,
                attention=machine.attention,
                device=machine.device,
                memory_bytes=machine.memory_bytes,
                longest_example_tokens=lengths.longest_tokens,
            )
        except HardwareError:
            tokens = fitting.least_tokens(setup.training, lengths.longest_tokens)
    estimate = estimate_largest(
        setup,
        tokens,
        attention=machine.attention,
        device=machine.device,
        longest_example_tokens=lengths.longest_tokens,
    )
    return tokens, estimate


def _alternative(setup: Setup, hardware: HardwareConfig, machine: Machine, lengths: Lengths) -> Alternative:
    is_other = not setup.model.gradient_checkpointing
    model = setup.model.model_copy(update={"gradient_checkpointing": is_other})
    other = Setup(model, setup.training, setup.precision)
    tokens, estimate = _largest(other, hardware.micro_batch_tokens, machine, lengths)
    # A speed that was measured is that of the run as it is configured.
    timing = estimate_timing(other, hardware, lengths, machine.measured)
    return Alternative(is_other, tokens, estimate, estimate.peak_bytes <= machine.usable_bytes, timing.seconds_per_step)
