"""What to change in a configuration so that its run fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from recipe_exp.planning import fitting
from recipe_exp.planning.generation import estimate_generation, recipes_at_once
from recipe_exp.planning.inputs import Inputs, Machine
from recipe_exp.planning.remedies import Setup

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


def find_advice(inputs: Inputs) -> list[Advice]:
    """Returns changes of a run that does not fit, the cheapest first; empty where nothing helps."""
    found: list[Advice] = []
    for candidate in _candidates(inputs):
        advice = Advice(candidate.overrides, candidate.price, candidate.peak_bytes)
        if inputs.data.validation_fraction > 0.0:
            advice = _with_evaluation(advice, candidate.setup, inputs)
        if advice.peak_bytes <= inputs.machine.usable_bytes:
            found.append(advice)
    return found


def _candidates(inputs: Inputs) -> Iterator[_Candidate]:
    """Yields changes with which the step of one of the longest examples fits."""
    setup, machine, data = inputs.setup, inputs.machine, inputs.data
    longest = inputs.lengths.longest_tokens
    prefix = () if inputs.hardware.micro_batch_tokens == "auto" else (_AUTO_MICRO_BATCH,)
    peak = fitting.largest_peak(setup, machine, longest)
    if peak <= machine.usable_bytes:
        yield _Candidate(prefix, "the same steps in smaller micro-batches" if prefix else "", setup, peak)
        return
    yield from _smaller_steps(setup, machine, longest)
    for change, changed_peak in fitting.fitting_changes(setup, machine, longest):
        yield _Candidate(prefix + change.overrides, change.price, change.setup, changed_peak)
    target = data.max_target_tokens
    while (target := target // 2) >= _SHORTEST_TARGET:
        peak = fitting.largest_peak(setup, machine, min(longest, data.max_source_tokens + target))
        if peak <= machine.usable_bytes:
            yield _Candidate((*prefix, f"data.max_target_tokens={target}"), "cuts longer recipes", setup, peak)
            return


def _smaller_steps(setup: Setup, machine: Machine, longest: int) -> Iterator[_Candidate]:
    """Yields the largest step that fits of those that are one micro-batch."""
    size = setup.training.batch_size
    while setup.training.update_in_backward and (size := size // 2):
        smaller = replace(setup, training=setup.training.model_copy(update={"batch_size": size}))
        peak = fitting.largest_peak(smaller, machine, longest)
        if peak <= machine.usable_bytes:
            yield _Candidate((f"training.batch_size={size}",), "smaller steps", smaller, peak)
            return


def _with_evaluation(advice: Advice, setup: Setup, inputs: Inputs) -> Advice:
    """Returns the advice with what an evaluation needs, and without beams where one recipe with them does not fit."""
    evaluation, machine = inputs.evaluation, inputs.machine

    def peak(num_beams: int) -> int:
        chosen = evaluation.model_copy(update={"num_beams": num_beams})
        source = inputs.data.max_source_tokens
        rows = min(recipes_at_once(setup, chosen, source, machine), chosen.max_generated_examples)
        return estimate_generation(
            setup, chosen, longest_source_tokens=source, device=machine.device, num_at_once=rows
        ).peak_bytes

    needed = peak(evaluation.num_beams)
    if needed <= machine.usable_bytes or evaluation.num_beams == 1:
        return replace(advice, peak_bytes=max(needed, advice.peak_bytes))
    return Advice(
        (*advice.overrides, "evaluation.num_beams=1"),
        "; ".join(filter(None, (advice.price, "recipes of an evaluation are written greedily"))),
        max(peak(1), advice.peak_bytes),
    )
