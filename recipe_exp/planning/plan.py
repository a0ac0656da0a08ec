"""The plan of a training run: whether it fits, what would make it fit, and how long it takes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from recipe_exp.config.data import DataConfig
from recipe_exp.config.hardware import HardwareConfig
from recipe_exp.config.model import ModelConfig
from recipe_exp.config.training import TrainingConfig
from recipe_exp.errors import HardwareError
from recipe_exp.planning import memory
from recipe_exp.planning.flops import ASSUMED_UTILISATION, seconds_per_step, training_flops
from recipe_exp.planning.memory import MemoryEstimate
from recipe_exp.planning.parameters import count_parameters
from recipe_exp.planning.remedies import Setup

# Mean tokens of a recipe's prompt and text under T5's vocabulary, for time estimates without data.
ESTIMATED_SOURCE_TOKENS = 25.0
ESTIMATED_TARGET_TOKENS = 138.0
_AUTO_MICRO_BATCH = "hardware.micro_batch_tokens=auto"


@dataclass(frozen=True)
class Advice:
    """A change of the configuration that was checked to fit.

    Attributes:
        overrides: to add to the command line.
        price: what they cost, in words.
        peak_bytes: memory that the longest example needs then.
    """

    overrides: tuple[str, ...]
    price: str
    peak_bytes: int


@dataclass(frozen=True)
class Timing:
    """How long a run takes, from its arithmetic and an assumed share of the device's peak.

    Attributes:
        mean_source_tokens: of an example.
        mean_target_tokens: of an example.
        lengths_are_estimated: whether these are typical of recipes instead of the data's own.
        assumed_utilisation: share of the matrix peak.
        seconds_per_step: None where the device's peak is not known for the precision.
        recipes_per_second: likewise.
        steps_per_epoch: None where the number of training examples is not known.
        hours_per_epoch: None where one of the two is not known.
    """

    mean_source_tokens: float
    mean_target_tokens: float
    lengths_are_estimated: bool
    assumed_utilisation: float
    seconds_per_step: float | None
    recipes_per_second: float | None
    steps_per_epoch: int | None
    hours_per_epoch: float | None

    def steps_within(self, hours: float) -> int | None:
        """Returns the steps that a run of so many hours takes, evaluation left out."""
        return None if self.seconds_per_step is None else int(hours * 3600 / self.seconds_per_step)


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
        longest_example_tokens: the longest example that `data` allows.
        micro_batch_tokens: as configured, or what `auto` takes.
        memory: at the fullest moment of a step, of the largest micro-batch.
        fits: whether that moment stays within `usable_bytes`.
        advice: changes that make it fit, cheapest first; empty if it does or nothing helps.
        leanest_overrides: the changes that need the least memory of all.
        leanest_memory_bytes: of the smallest device that can train this model with them.
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
    micro_batch_tokens: int
    memory: MemoryEstimate
    fits: bool
    advice: tuple[Advice, ...]
    leanest_overrides: tuple[str, ...]
    leanest_memory_bytes: int
    timing: Timing
    checkpoint_bytes: int
    disk_bytes: int

    @property
    def peak_bytes(self) -> int:
        """Memory at the fullest moment of a step."""
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
    model: ModelConfig,
    training: TrainingConfig,
    hardware: HardwareConfig,
    data: DataConfig,
    *,
    device: str,
    precision: str,
    attention: str,
    memory_bytes: int,
    num_train_examples: int | None = None,
    mean_source_tokens: float | None = None,
    mean_target_tokens: float | None = None,
) -> Plan:
    """Returns the plan of a run on the examples that `data` allows at most, without weights, data or device.

    Args:
        model: the network.
        training: optimizer, adapter and batch size.
        hardware: micro-batch, processes and peak of the device.
        data: bounds of an example's length.
        device: `cpu` or `cuda`.
        precision: resolved, `fp32`, `tf32` or `bf16`.
        attention: resolved, `eager` or `sdpa`.
        memory_bytes: of one device.
        num_train_examples: of the training split, if known.
        mean_source_tokens: of an example; None takes what is typical of recipes.
        mean_target_tokens: likewise.
    """
    setup = Setup(model, training, precision)
    longest = data.max_source_tokens + data.max_target_tokens
    tokens, estimate = _largest_micro_batch(setup, hardware, attention, device, memory_bytes, longest)
    usable = int(memory.USABLE_SHARE * memory_bytes)
    fits = estimate.peak_bytes <= usable
    leanest, leanest_peak = memory.leanest_change(
        setup, attention=attention, device=device, longest_example_tokens=longest
    )
    size = memory.checkpoint_bytes(model, training)
    return Plan(
        model=model.name,
        num_parameters=count_parameters(model.shape),
        num_tuned_parameters=sum(group.num_parameters for group in memory.tuned_groups(model, training)),
        device=device,
        precision=precision,
        attention=attention,
        gradient_checkpointing=model.gradient_checkpointing,
        memory_bytes=memory_bytes,
        usable_bytes=usable,
        longest_example_tokens=longest,
        micro_batch_tokens=tokens,
        memory=estimate,
        fits=fits,
        advice=() if fits else tuple(_advice(setup, hardware, attention, device, memory_bytes, longest)),
        leanest_overrides=leanest,
        leanest_memory_bytes=math.ceil(leanest_peak / memory.USABLE_SHARE),
        timing=_timing(setup, hardware, num_train_examples, mean_source_tokens, mean_target_tokens),
        checkpoint_bytes=size,
        disk_bytes=(training.keep_best_n_checkpoints + 2) * size,
    )


def _largest_micro_batch(
    setup: Setup, hardware: HardwareConfig, attention: str, device: str, memory_bytes: int, longest: int
) -> tuple[int, MemoryEstimate]:
    """Returns the budget that a run takes, or the longest example where not even that fits, and its memory."""
    tokens = hardware.micro_batch_tokens
    if tokens == "auto":
        try:
            tokens = memory.auto_micro_batch_tokens(
                setup.model,
                setup.training,
                precision=setup.precision,
                attention=attention,
                device=device,
                memory_bytes=memory_bytes,
                longest_example_tokens=longest,
            )
        except HardwareError:
            tokens = longest
    estimate = memory.estimate_largest(
        setup, tokens, attention=attention, device=device, longest_example_tokens=longest
    )
    return tokens, estimate


def _advice(
    setup: Setup, hardware: HardwareConfig, attention: str, device: str, memory_bytes: int, longest: int
) -> list[Advice]:
    smaller: tuple[str, ...] = ()
    if hardware.micro_batch_tokens != "auto":
        smaller = (_AUTO_MICRO_BATCH,)
        single = memory.estimate_largest(
            setup, longest, attention=attention, device=device, longest_example_tokens=longest
        )
        if single.peak_bytes <= memory.USABLE_SHARE * memory_bytes:
            return [Advice(smaller, "the same steps in smaller micro-batches", single.peak_bytes)]
    helping = memory.fitting_changes(
        setup, attention=attention, device=device, memory_bytes=memory_bytes, longest_example_tokens=longest
    )
    return [Advice(smaller + change.overrides, change.price, peak_bytes) for change, peak_bytes in helping]


def _timing(
    setup: Setup,
    hardware: HardwareConfig,
    num_train_examples: int | None,
    mean_source_tokens: float | None,
    mean_target_tokens: float | None,
) -> Timing:
    source = ESTIMATED_SOURCE_TOKENS if mean_source_tokens is None else mean_source_tokens
    target = ESTIMATED_TARGET_TOKENS if mean_target_tokens is None else mean_target_tokens
    batch_size = setup.training.batch_size
    seconds = seconds_per_step(
        training_flops(
            setup.model.shape,
            setup.training.adapter,
            source_tokens=source,
            target_tokens=target,
            gradient_checkpointing=setup.model.gradient_checkpointing,
        ),
        batch_size=batch_size,
        num_processes=1 if hardware.num_processes == "auto" else hardware.num_processes,
        peak_tflops=hardware.peak_tflops,
        precision=setup.precision,
    )
    steps = None if num_train_examples is None else -(-num_train_examples // batch_size)
    return Timing(
        mean_source_tokens=source,
        mean_target_tokens=target,
        lengths_are_estimated=mean_source_tokens is None or mean_target_tokens is None,
        assumed_utilisation=ASSUMED_UTILISATION,
        seconds_per_step=seconds,
        recipes_per_second=None if seconds is None else batch_size / seconds,
        steps_per_epoch=steps,
        hours_per_epoch=None if seconds is None or steps is None else steps * seconds / 3600,
    )
