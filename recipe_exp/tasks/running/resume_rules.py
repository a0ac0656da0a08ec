"""What a run may be continued with: permissions, the length of a run and its schedule, and the table of refusals.

Nothing here needs PyTorch, so that a command is refused before it is loaded.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.relevance import LENGTH_KEYS, Difference, is_fixed
from recipe_exp.config.training import TrainingConfig
from recipe_exp.errors import ResumeError
from recipe_exp.training.schedules import depends_on_length, ends_at_zero

# Whoever allows the key to differ allows what it resolves to.
_SETTLED_BY_KEY = {"precision": "training.precision"}


@dataclass(frozen=True)
class Span:
    """How long a run is, and over how many steps its learning rate's schedule is laid.

    Attributes:
        total_steps: optimizer steps of the run.
        schedule_steps: steps under the schedule; the run's own, unless it was continued to another length.
    """

    total_steps: int
    schedule_steps: int


def planned_steps(training: TrainingConfig, num_examples: int) -> int:
    """Returns the steps of a run over a training split of so many examples; the smaller limit wins."""
    steps = -(-num_examples // training.batch_size) * training.num_epochs
    return min(steps, training.max_steps or steps)


def span_of(record: Mapping[str, Any]) -> Span | None:
    """Returns the span that a `run.json` tells of; None before the run's first step."""
    total_steps = record.get("total_steps")
    return Span(total_steps, record.get("schedule_steps", total_steps)) if total_steps is not None else None


def extended(then: Span | None, total_steps: int, config: ExperimentConfig) -> Span:
    """Returns the span of a run that is continued to `total_steps`, as `resume_schedule` wishes.

    A run of the same length keeps the schedule that it has.
    """
    if then is None or config.resume_schedule == "stretch":
        return Span(total_steps, total_steps)
    return Span(total_steps, then.schedule_steps)


def length_problem(then: Span | None, total_steps: int, num_done: int, config: ExperimentConfig) -> str | None:
    """Returns why a run cannot be continued to another length, with the remedy; None if it can.

    Args:
        then: its span so far.
        total_steps: its length from here on.
        num_done: steps that it has done.
        config: it would be continued with.
    """
    schedule, wish = config.training.schedule, config.resume_schedule
    if num_done > total_steps:
        return f"the run has done {num_done:,} steps already, more than the {total_steps:,} of this command"
    if then is None or then.total_steps == total_steps or not depends_on_length(schedule):
        return None
    is_longer = total_steps > then.schedule_steps
    if wish == "keep" and is_longer and ends_at_zero(schedule):
        return (
            f"resume_schedule=keep: the {schedule.kind} schedule ends at a rate of zero after {then.schedule_steps:,} "
            "steps, so further steps would learn nothing; take resume_schedule=stretch"
        )
    if wish is not None:
        return None
    choices = f"resume_schedule=stretch lays it over {total_steps:,} steps"
    if not (is_longer and ends_at_zero(schedule)):
        choices += f", resume_schedule=keep leaves it laid over {then.schedule_steps:,}"
    return f"a {schedule.kind} schedule depends on the length of the run: {choices}"


def is_permitted(difference: Difference, config: ExperimentConfig) -> bool:
    """Returns whether `resume_allow` names what differs; lengths have a rule of their own."""
    names = {difference.key, _SETTLED_BY_KEY.get(difference.key)}
    return difference.key in LENGTH_KEYS or not names.isdisjoint(config.resume_allow)


def refuse(name: str, found: Iterable[Difference], problem: str | None, config: ExperimentConfig) -> None:
    """Refuses to continue a run if anything that is not permitted differs, all of it in one message.

    Args:
        name: of the run.
        found: every difference.
        problem: what speaks against its length.
        config: it would be continued with.

    Raises:
        ResumeError: with a line `key: then -> now` for each, and the remedy.
    """
    found = list(found)
    forbidden = [difference for difference in found if not is_permitted(difference, config)]
    lengths = [difference for difference in found if difference.key in LENGTH_KEYS] if problem else []
    if forbidden or problem:
        lines = [
            f"resume: {name} was executed with other values of what changes its numbers",
            *(f"  {difference}" for difference in [*forbidden, *lengths]),
            *([problem] if problem else []),
            _remedy(forbidden, config.resume_allow),
        ]
        raise ResumeError("\n".join(lines))


def _remedy(forbidden: Sequence[Difference], allowed: Sequence[str]) -> str:
    others = "set back what differs, or leave out resume=... for a run of its own"
    if not forbidden:
        return f"otherwise {others}"
    fixed = [difference.key for difference in forbidden if is_fixed(difference.key)]
    if fixed:
        return f"{others}; the checkpoint's weights and moments fit no other {' and '.join(fixed)}"
    names = ",".join(dict.fromkeys([*allowed, *(difference.key for difference in forbidden)]))
    return f"{others}; {shlex.quote(f'resume_allow=[{names}]')} goes on all the same"
