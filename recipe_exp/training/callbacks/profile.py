"""What a few steps are made of, operator by operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.profiler import ProfilerActivity, profile

from recipe_exp.training.callbacks.callback import Callback
from recipe_exp.training.state import StepResult

if TYPE_CHECKING:
    from recipe_exp.training.trainer import Trainer

TRACE_FILE = "trace.json"
OPERATORS_FILE = "operators.txt"
STEPS_BEFORE = 3
"""Steps that are not recorded: the first ones reserve memory and choose kernels."""

_NUM_SHOWN_OPERATORS = 12
_MICROSECONDS = 1e-6


@dataclass(frozen=True)
class Operator:
    """What one operator took in all recorded steps.

    Attributes:
        name: as PyTorch calls it.
        num_calls: in all steps.
        seconds: on the device, or on the host where there is no other, without what it calls.
    """

    name: str
    num_calls: int
    seconds: float


class ProfileCallback(Callback):
    """Records a few steps with PyTorch's profiler into a folder and shows the operators that took the most.

    Recording makes those steps slower, so their speed means nothing; what it costs whom is right all the same.

    Args:
        folder: gets `trace.json`, which chrome://tracing and ui.perfetto.dev open, and `operators.txt`.
        num_steps: how many are recorded, after the first three of this execution; fewer where it ends before.
        report: shows lines to the user.
    """

    priority = 110

    def __init__(self, folder: Path, num_steps: int, report: Callable[[str], None]) -> None:
        self.folder = folder
        self.num_steps = num_steps
        self.report = report
        self._num_begun = 0
        self._num_recorded = 0
        self._profile: profile | None = None

    def on_step_begin(self, trainer: Trainer) -> None:
        """Begins to record when it is time."""
        self._num_begun += 1
        if self._num_begun != STEPS_BEFORE + 1:
            return
        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        self._profile = profile(activities=activities)
        self._profile.start()

    def on_step_end(self, trainer: Trainer, result: StepResult) -> None:
        """Ends with the last of the steps."""
        if self._profile is None:
            return
        self._num_recorded += 1
        if self._num_recorded == self.num_steps:
            self._write(self._profile)

    def on_train_end(self, trainer: Trainer) -> None:
        """Keeps what there is of a run that ended before."""
        if self._profile is not None:
            self._write(self._profile)
        elif self._num_recorded == 0:
            self.report(f"profile: the run ended within its first {STEPS_BEFORE} steps, so nothing was recorded")

    def _write(self, recorded: profile) -> None:
        self._profile = None
        recorded.stop()
        self.folder.mkdir(parents=True, exist_ok=True)
        recorded.export_chrome_trace(str(self.folder / TRACE_FILE))
        lines = table(operators_of(recorded), self._num_recorded)
        (self.folder / OPERATORS_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
        for line in lines:
            self.report(line)
        self.report(f"open {self.folder / TRACE_FILE} in chrome://tracing or ui.perfetto.dev")


def operators_of(recorded: profile) -> list[Operator]:
    """Returns the operators that took any time, the costliest first."""
    on_device = torch.cuda.is_available()
    found = []
    for event in recorded.key_averages():
        microseconds = event.self_device_time_total if on_device else event.self_cpu_time_total
        if microseconds > 0:
            found.append(Operator(event.key, event.count, microseconds * _MICROSECONDS))
    return sorted(found, key=lambda operator: -operator.seconds)


def table(operators: list[Operator], num_steps: int) -> list[str]:
    """Returns the costliest operators as lines: calls and time a step, and their share of all time."""
    whole = sum(operator.seconds for operator in operators)
    shown = operators[:_NUM_SHOWN_OPERATORS]
    width = max([len("operator"), *(len(operator.name) for operator in shown)])
    lines = [f"{'operator':<{width}}{'calls/step':>12}{'ms/step':>10}{'share':>8}"]
    lines += [
        f"{operator.name:<{width}}{operator.num_calls / num_steps:>12,.1f}{1e3 * operator.seconds / num_steps:>10,.2f}"
        f"{operator.seconds / whole:>8.1%}"
        for operator in shown
    ]
    return lines
