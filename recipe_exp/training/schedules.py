"""Learning-rate schedules as pure functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable

from recipe_exp.config.training import (
    ConstantScheduleConfig,
    CosineRestartsScheduleConfig,
    CosineScheduleConfig,
    InverseSquareRootScheduleConfig,
    LinearScheduleConfig,
    ScheduleConfig,
)

Schedule = Callable[[int], float]


def build_schedule(schedule: ScheduleConfig, *, peak: float, warmup_steps: int, schedule_steps: int) -> Schedule:
    """Returns the learning rate of every step, counted from 0.

    The rate rises linearly over `warmup_steps`: step `i` of the warm-up uses `peak * (i + 1) / warmup_steps`, so no
    step is spent at a rate of zero. Afterwards it follows the schedule over the remaining steps.

    Args:
        schedule: which decay.
        peak: the rate at the end of the warm-up.
        warmup_steps: length of the warm-up, 0 for none.
        schedule_steps: steps that the schedule is laid over, warm-up included; those of the whole run, unless a run was
            continued to another length. After them its last value goes on.
    """
    decay = _decay(schedule, warmup_steps, max(schedule_steps - warmup_steps, 1))

    def learning_rate(step: int) -> float:
        if step < warmup_steps:
            return peak * (step + 1) / warmup_steps
        return peak * decay(step - warmup_steps)

    return learning_rate


def depends_on_length(schedule: ScheduleConfig) -> bool:
    """Returns whether the rate of a step depends on how long the run is."""
    return not isinstance(schedule, ConstantScheduleConfig | InverseSquareRootScheduleConfig)


def ends_at_zero(schedule: ScheduleConfig) -> bool:
    """Returns whether the rate is zero after the steps that the schedule is laid over."""
    return _decay(schedule, 0, 1)(1) == 0.0


def _decay(schedule: ScheduleConfig, warmup_steps: int, decay_steps: int) -> Schedule:
    """Returns the factor of the peak rate, `steps` after the warm-up; the first step of the decay has factor 1."""
    match schedule:
        case ConstantScheduleConfig():
            return lambda _steps: 1.0
        case LinearScheduleConfig():
            return lambda steps: max(1.0 - steps / decay_steps, 0.0)
        case CosineScheduleConfig(min_ratio=floor):
            return lambda steps: floor + (1.0 - floor) * _half_cosine(min(steps / decay_steps, 1.0))
        case CosineRestartsScheduleConfig(num_cycles=cycles):
            return lambda steps: 0.0 if steps >= decay_steps else _half_cosine(steps * cycles / decay_steps % 1.0)
        case InverseSquareRootScheduleConfig(timescale=timescale):
            scale = timescale or max(warmup_steps, 1)
            return lambda steps: math.sqrt(scale / (steps + scale))


def _half_cosine(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))
