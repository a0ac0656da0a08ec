"""The plan of a training run: whether it fits, what would make it fit, and how long it takes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from recipe_exp.errors import HardwareError
from recipe_exp.planning import fitting
from recipe_exp.planning.advice import Advice, find_advice
from recipe_exp.planning.generation import estimate_generation, recipes_at_once
from recipe_exp.planning.held import checkpoint_bytes, tuned_groups
from recipe_exp.planning.inputs import USABLE_SHARE, Inputs
from recipe_exp.planning.learning_rates import learning_rate_warning
from recipe_exp.planning.lengths import typical_batch
from recipe_exp.planning.memory import MemoryEstimate, estimate_batch, estimate_largest
from recipe_exp.planning.parameters import count_parameters
from recipe_exp.planning.remedies import Setup
from recipe_exp.planning.timing import Timing, estimate_timing


@dataclass(frozen=True)
class Subject:
    """What is trained, where and how.

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


@dataclass(frozen=True)
class Disk:
    """What a run keeps on disk.

    Attributes:
        checkpoint_bytes: of one checkpoint.
        disk_bytes: of all checkpoints that are kept, while the next one is written.
    """

    checkpoint_bytes: int
    disk_bytes: int


@dataclass(frozen=True)
class Leanest:
    """The settings that need the least memory of all.

    Attributes:
        leanest_overrides: that lead to them; none if nothing needs less.
        leanest_memory_bytes: of the smallest device that can train this model with them.
    """

    leanest_overrides: tuple[str, ...]
    leanest_memory_bytes: int


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
        subject: what is trained, where and how.
        longest_example_tokens: the longest example of the data, or that `data` allows.
        lengths: where the lengths are from, in words.
        micro_batch_tokens: as configured, or what `auto` takes.
        step: memory at the fullest moment of a step, of the largest micro-batch.
        typical: at the fullest moment of a typical step.
        generation: while an evaluation writes recipes; None without one.
        num_generated_at_once: recipes that it writes at the same time.
        alternative: the same run with gradient checkpointing the other way.
        leanest: the settings that need the least memory.
        timing: how long it takes.
        disk: what is kept there.
        warnings: what is unusual, one line each.
        advice: changes that make it fit, cheapest first; empty if it does or nothing helps.
    """

    subject: Subject
    longest_example_tokens: int
    lengths: str
    micro_batch_tokens: int
    step: MemoryEstimate
    typical: MemoryEstimate
    generation: MemoryEstimate | None
    num_generated_at_once: int
    alternative: Alternative
    leanest: Leanest
    timing: Timing
    disk: Disk
    warnings: tuple[str, ...]
    advice: tuple[Advice, ...] = ()

    @property
    def memory(self) -> MemoryEstimate:
        """At the fullest moment of the run, of the largest micro-batch or of an evaluation."""
        if self.generation is None:
            return self.step
        return max(self.step, self.generation, key=lambda estimate: estimate.peak_bytes)

    @property
    def fits(self) -> bool:
        """Whether the fullest moment stays within what is usable."""
        return self.peak_bytes <= self.subject.usable_bytes

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
        """Returns everything as plain data: subject, memory, time and disk on the top level."""
        data = asdict(self)
        for section in ("subject", "leanest", "timing", "disk"):
            data |= data.pop(section)
        return data | asdict(self.memory) | {"peak_bytes": self.peak_bytes, "fits": self.fits}


def build_plan(inputs: Inputs, *, micro_batch_tokens: int | None = None) -> Plan:
    """Returns the plan of a run, without weights, data or device.

    Args:
        inputs: what decides it.
        micro_batch_tokens: what a run has found `hardware.micro_batch_tokens` to be; None finds it.
    """
    setup, lengths = inputs.setup, inputs.lengths
    tokens, step = _largest(setup, micro_batch_tokens or inputs.hardware.micro_batch_tokens, inputs)
    warning = learning_rate_warning(setup.model, setup.training)
    num_generated_at_once, generation = _generation(inputs)
    plan = Plan(
        subject=_subject(inputs),
        longest_example_tokens=lengths.longest_tokens,
        lengths=lengths.origin,
        micro_batch_tokens=tokens,
        step=step,
        typical=_typical(inputs, tokens),
        generation=generation,
        num_generated_at_once=num_generated_at_once,
        alternative=_alternative(inputs),
        leanest=_leanest(inputs),
        timing=estimate_timing(setup, inputs.hardware, lengths, inputs.machine.measured),
        disk=_disk(setup),
        warnings=() if warning is None else (warning,),
    )
    return plan if plan.fits else replace(plan, advice=tuple(find_advice(inputs)))


def _subject(inputs: Inputs) -> Subject:
    setup, machine = inputs.setup, inputs.machine
    return Subject(
        model=setup.model.name,
        num_parameters=count_parameters(setup.model.shape),
        num_tuned_parameters=sum(group.num_parameters for group in tuned_groups(setup.model, setup.training)),
        device=machine.device,
        precision=setup.precision,
        attention=machine.attention,
        gradient_checkpointing=setup.model.gradient_checkpointing,
        memory_bytes=machine.memory_bytes,
        usable_bytes=machine.usable_bytes,
    )


def _largest(setup: Setup, tokens: int | Literal["auto"], inputs: Inputs) -> tuple[int, MemoryEstimate]:
    """Returns the budget that a run takes, or the least that it can take where not even that fits, and its memory."""
    machine, longest = inputs.machine, inputs.lengths.longest_tokens
    if tokens == "auto":
        try:
            tokens = fitting.auto_micro_batch_tokens(setup, machine, longest)
        except HardwareError:
            tokens = fitting.least_tokens(setup.training, longest)
    estimate = estimate_largest(
        setup, tokens, attention=machine.attention, device=machine.device, longest_example_tokens=longest
    )
    return tokens, estimate


def _typical(inputs: Inputs, tokens: int) -> MemoryEstimate:
    training, hardware = inputs.setup.training, inputs.hardware
    num_processes = hardware.num_processes if isinstance(hardware.num_processes, int) else 1
    budget = None if training.update_in_backward else tokens
    batch = typical_batch(inputs.lengths, training.batch_size, budget, num_processes, is_padded=inputs.setup.is_padded)
    return estimate_batch(inputs.setup, batch, attention=inputs.machine.attention, device=inputs.machine.device)


def _generation(inputs: Inputs) -> tuple[int, MemoryEstimate | None]:
    """Returns how many recipes an evaluation writes at the same time, and its memory; None without an evaluation."""
    evaluation, source = inputs.evaluation, inputs.data.max_source_tokens
    count = min(recipes_at_once(inputs.setup, evaluation, source, inputs.machine), evaluation.max_generated_examples)
    if inputs.data.validation_fraction == 0.0:
        return count, None
    return count, estimate_generation(
        inputs.setup, evaluation, longest_source_tokens=source, device=inputs.machine.device, num_at_once=count
    )


def _alternative(inputs: Inputs) -> Alternative:
    setup = inputs.setup
    is_other = not setup.model.gradient_checkpointing
    model = setup.model.model_copy(update={"gradient_checkpointing": is_other})
    other = replace(setup, model=model)
    tokens, estimate = _largest(other, inputs.hardware.micro_batch_tokens, inputs)
    # A speed that was measured is that of the run as it is configured.
    timing = estimate_timing(other, inputs.hardware, inputs.lengths, inputs.machine.measured)
    fits = estimate.peak_bytes <= inputs.machine.usable_bytes
    return Alternative(is_other, tokens, estimate, fits, timing.seconds_per_step)


def _leanest(inputs: Inputs) -> Leanest:
    overrides, peak_bytes = fitting.leanest_change(inputs.setup, inputs.machine, inputs.lengths.longest_tokens)
    return Leanest(overrides, math.ceil(peak_bytes / USABLE_SHARE))


def _disk(setup: Setup) -> Disk:
    size = checkpoint_bytes(setup.model, setup.training)
    return Disk(size, (setup.training.keep_best_n_checkpoints + 2) * size)
