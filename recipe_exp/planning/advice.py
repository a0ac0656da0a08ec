"""What to change in a configuration so that its run fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from recipe_exp.config.data import DataConfig
from recipe_exp.config.evaluation import EvaluationConfig
from recipe_exp.config.hardware import HardwareConfig
from recipe_exp.planning import fitting
from recipe_exp.planning.generation import estimate_generation, num_at_once
from recipe_exp.planning.lengths import Lengths
from recipe_exp.planning.memory import estimate_largest
from recipe_exp.planning.remedies import Setup

if TYPE_CHECKING:
    from recipe_exp.planning.plan import Machine

_AUTO_MICRO_BATCH = "hardware.micro_batch_tokens=auto"
_SHORTEST_TARGET = 64


@dataclass(frozen=True)
class Advice:
    """A change of the configuration that was checked to fit.

    Attributes:
        overrides: to add to the command line.
        price: what they cost, in words.
        peak_bytes: memory that the run needs then, with one of the longest examples at a time.
    """

    overrides: tuple[str, ...]
    price: str
    peak_bytes: int


@dataclass(frozen=True)
class _Candidate:
    overrides: tuple[str, ...]
    price: str
    setup: Setup
    peak_bytes: int


def find_advice(
    setup: Setup,
    hardware: HardwareConfig,
    data: DataConfig,
    evaluation: EvaluationConfig,
    machine: Machine,
    lengths: Lengths,
) -> list[Advice]:
    """Returns changes of a run that does not fit, the cheapest first; empty where nothing helps.

    Args:
        setup: model, training and resolved precision.
        hardware: of the micro-batch.
        data: of an example's length, and whether there is anything to evaluate.
        evaluation: how recipes are generated.
        machine: the device.
        lengths: of the examples.
    """
    found: list[Advice] = []
    for candidate in _candidates(setup, hardware, data, machine, lengths.longest_tokens):
        advice = Advice(candidate.overrides, candidate.price, candidate.peak_bytes)
        if data.validation_fraction > 0.0:
            advice = _with_evaluation(advice, candidate.setup, evaluation, data, machine)
        if advice.peak_bytes <= machine.usable_bytes:
            found.append(advice)
    return found


def _candidates(
    setup: Setup, hardware: HardwareConfig, data: DataConfig, machine: Machine, longest: int
) -> Iterator[_Candidate]:
    """Yields changes with which the step of one of the longest examples fits."""
    prefix = () if hardware.micro_batch_tokens == "auto" else (_AUTO_MICRO_BATCH,)
    peak = _peak(setup, machine, longest)
    if peak <= machine.usable_bytes:
        yield _Candidate(prefix, "the same steps in smaller micro-batches" if prefix else "", setup, peak)
        return
    yield from _smaller_steps(setup, machine, longest)
    for change, changed_peak in fitting.fitting_changes(
        setup,
        attention=machine.attention,
        device=machine.device,
        memory_bytes=machine.memory_bytes,
        longest_example_tokens=longest,
    ):
        yield _Candidate(prefix + change.overrides, change.price, change.setup, changed_peak)
    target = data.max_target_tokens
    while (target := target // 2) >= _SHORTEST_TARGET:
        peak = _peak(setup, machine, min(longest, data.max_source_tokens + target))
        if peak <= machine.usable_bytes:
            yield _Candidate((*prefix, f"data.max_target_tokens={target}"), "cuts longer recipes", setup, peak)
            return


def _smaller_steps(setup: Setup, machine: Machine, longest: int) -> Iterator[_Candidate]:
    """Yields the largest step that fits of those that are one micro-batch."""
    size = setup.training.batch_size
    while setup.training.update_in_backward and (size := size // 2):
        smaller = replace(setup, training=setup.training.model_copy(update={"batch_size": size}))
        peak = _peak(smaller, machine, longest)
        if peak <= machine.usable_bytes:
            yield _Candidate((f"training.batch_size={size}",), "smaller steps", smaller, peak)
            return


def _peak(setup: Setup, machine: Machine, longest: int) -> int:
    return estimate_largest(
        setup, longest, attention=machine.attention, device=machine.device, longest_example_tokens=longest
    ).peak_bytes


def _with_evaluation(
    advice: Advice, setup: Setup, evaluation: EvaluationConfig, data: DataConfig, machine: Machine
) -> Advice:
    """Returns the advice with as many recipes at a time in an evaluation as fit, at least one."""
    count = num_at_once(evaluation, data.max_source_tokens)
    while True:
        fewer = evaluation.model_copy(update={"max_generated_examples": count})
        peak = estimate_generation(
            setup, fewer, longest_source_tokens=data.max_source_tokens, device=machine.device
        ).peak_bytes
        if peak <= machine.usable_bytes or count == 1:
            break
        count //= 2
    peak = max(peak, advice.peak_bytes)
    if count == num_at_once(evaluation, data.max_source_tokens):
        return Advice(advice.overrides, advice.price, peak)
    price = "; ".join(filter(None, (advice.price, "fewer recipes are written in an evaluation")))
    return Advice((*advice.overrides, f"evaluation.max_generated_examples={count}"), price, peak)
