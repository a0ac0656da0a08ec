"""What a plan is made from: the device, and the parts of a configuration that decide memory and time."""

from __future__ import annotations

from dataclasses import dataclass

from recipe_exp.config.data import DataConfig
from recipe_exp.config.evaluation import EvaluationConfig
from recipe_exp.config.hardware import HardwareConfig
from recipe_exp.planning.lengths import Lengths
from recipe_exp.planning.remedies import Setup
from recipe_exp.planning.timing import MeasuredSpeed

# The rest of a device's memory is left to other programs and to what the formula does not know.
USABLE_SHARE = 0.9


@dataclass(frozen=True)
class Machine:
    """The device of a plan, resolved.

    Attributes:
        device: `cpu` or `cuda`.
        attention: a kernel of `model.attention`.
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
        return int(USABLE_SHARE * self.memory_bytes)


@dataclass(frozen=True)
class Inputs:
    """What a plan is made from.

    Attributes:
        setup: model, training and resolved precision.
        hardware: micro-batch, number of processes (resolved) and peak of the device.
        data: whether there is anything to evaluate, and how long an example may be.
        evaluation: how recipes are generated.
        machine: the device.
        lengths: of the training examples.
    """

    setup: Setup
    hardware: HardwareConfig
    data: DataConfig
    evaluation: EvaluationConfig
    machine: Machine
    lengths: Lengths
