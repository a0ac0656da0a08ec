"""What a run says to a person who is not at the machine: short, and complete on a phone's lock screen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from recipe_exp.tracking.notifier import Message

_SHOWN_METRICS = ("eval/loss", "eval/bleu", "eval/rougeL", "eval/ingredient_coherence", "eval/instruction_quality")
_MAX_SAMPLE_LINES = 6
_MAX_LINE_CHARACTERS = 80
_REASONS = {
    "sigint": "by Ctrl-C",
    "sigterm": "because the machine was taken away",
    "time_limit": "by training.stop_after_hours",
    "stalled": "by the stall watchdog",
}


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        step: steps done.
        total_steps: steps of the whole run; None before that is known.
    """

    step: int
    total_steps: int | None

    def __str__(self) -> str:
        return f"step {self.step:,}" if self.total_steps is None else f"step {self.step:,} of {self.total_steps:,}"


def started(run_name: str, progress: Progress, where: str) -> Message:
    """The run begins, or goes on from a checkpoint."""
    if progress.step:
        return Message(f"{run_name} goes on after {progress}", where)
    return Message(f"{run_name} started", f"{progress.total_steps:,} steps\n{where}")


def going_on(
    run_name: str,
    progress: Progress,
    seconds_left: float | None,
    metrics: Mapping[str, float],
    sample: tuple[str, str] | None,
) -> Message:
    """The regular line.

    Args:
        run_name: what people call the run.
        progress: where it stands.
        seconds_left: until its end; None where that cannot be told yet.
        metrics: the last value of each metric.
        sample: a prompt and what the model made of it.
    """
    left = "" if seconds_left is None else f", about {duration(seconds_left)} left"
    lines = [f"train/loss {metrics['train/loss']:.3f}"] if "train/loss" in metrics else []
    return Message(f"{run_name} at {progress}{left}", _lines(*lines, _evaluation(metrics), _sample(sample)))


def new_best(
    run_name: str, progress: Progress, metric: str, value: float, before: float | None, sample: tuple[str, str] | None
) -> Message:
    """A better checkpoint was saved."""
    change = "" if before is None else f", was {_number(before)}"
    return Message(
        f"{run_name}: new best at {progress}", _lines(f"{metric} {_number(value)}{change}", _sample(sample)), "success"
    )


def finished(
    run_name: str, progress: Progress, seconds: float, best: Mapping[str, object] | None, where: str, is_early: bool
) -> Message:
    """The run is done.

    Args:
        run_name: what people call the run.
        progress: where it ended.
        seconds: that this execution took.
        best: `metric`, `value` and `step` of the best evaluated step.
        where: the folder of its best model.
        is_early: whether early stopping ended it.
    """
    early = "stopped improving and " if is_early else ""
    line = f"best {best['metric']} {_number(best['value'])} at step {best['step']:,}" if best else ""
    title = f"{run_name} {early}finished after {progress.step:,} steps in {duration(seconds)}"
    return Message(title, _lines(line, where), "success")


def interrupted(run_name: str, progress: Progress | None, reason: str, resume_command: str) -> Message:
    """The run was stopped before its end and can go on.

    Args:
        run_name: what people call the run.
        progress: where it stopped; None before its first step.
        reason: as `run.json` has it.
        resume_command: what continues it.
    """
    why = f" {_REASONS[reason]}" if reason in _REASONS else ""
    title = f"{run_name} interrupted{why}{_place(progress)}"
    return Message(title, _lines("continue with", f"  {resume_command}"), "warning")


def failed(run_name: str, progress: Progress | None, error: str, resume_command: str | None) -> Message:
    """The run ended with an error."""
    again = _lines("once mended, continue with", f"  {resume_command}") if resume_command else ""
    return Message(f"{run_name} failed{_place(progress)}", _lines(error, again), "failure")


def killed(run_name: str, resume_command: str) -> Message:
    """The process is gone and said nothing."""
    body = _lines("killed, out of memory, or the machine went down; continue with", f"  {resume_command}")
    return Message(f"{run_name} ended without a word", body, "failure")


def duration(seconds: float) -> str:
    """Two units at most: `45 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def _place(progress: Progress | None) -> str:
    return f" at {progress}" if progress is not None else " before the first step"


def _evaluation(metrics: Mapping[str, float]) -> str:
    shown = [f"{name.removeprefix('eval/')} {_number(metrics[name])}" for name in _SHOWN_METRICS if name in metrics]
    return "eval: " + ", ".join(shown) if shown else ""


def _sample(sample: tuple[str, str] | None) -> str:
    if sample is None:
        return ""
    prompt, generated = sample
    lines = [line.strip() for line in generated.splitlines() if line.strip()]
    more = ["..."] if len(lines) > _MAX_SAMPLE_LINES else []
    return _lines("", _cut(f"> {prompt}"), *map(_cut, lines[:_MAX_SAMPLE_LINES]), *more, keep_empty=True)


def _cut(line: str) -> str:
    line = " ".join(line.split())
    return line if len(line) <= _MAX_LINE_CHARACTERS else line[: _MAX_LINE_CHARACTERS - 3] + "..."


def _lines(*lines: str, keep_empty: bool = False) -> str:
    return "\n".join(line for line in lines if line or keep_empty)


def _number(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 1000 else f"{value:,.0f}"
