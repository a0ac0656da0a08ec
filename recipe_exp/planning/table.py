"""A plan as a person likes to read it."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from recipe_exp.files import size_text
from recipe_exp.planning.plan import Plan

_BAR_CELLS = 28
_PART_LABELS = {
    "weights": "weights",
    "weight_casts": "bf16 copies of weights",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "activations": "activations",
    "logits": "logits and their gradient",
    "overhead": "libraries",
}


def plan_table(plan: Plan, *, device_name: str | None = None, free_bytes: int | None = None) -> RenderableType:
    """Returns the plan for a terminal: memory by part, time, disk, the verdict and what to change.

    Args:
        plan: what to show.
        device_name: of a device that is there.
        free_bytes: of its memory, at present.
    """
    sections: list[RenderableType] = [
        _heading(plan, device_name),
        _memory(plan),
        Padding(_facts(plan), (1, 0, 0, 0)),
        Padding(_verdict(plan, free_bytes), (1, 0, 0, 0)),
    ]
    return Padding(Group(*sections), (1, 0, 1, 1))


def count_text(count: float) -> str:
    """Returns a count in thousands, millions or billions, with three digits."""
    for unit, factor in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f}"


def duration_text(seconds: float) -> str:
    """Returns a duration in the unit that fits it."""
    for unit, length in (("days", 2 * 86400), ("h", 5400), ("min", 90)):
        if seconds >= length:
            return f"{seconds / {'days': 86400, 'h': 3600, 'min': 60}[unit]:.1f} {unit}"
    return f"{seconds:.2g} s" if seconds >= 0.1 else f"{seconds * 1000:.2g} ms"


def _heading(plan: Plan, device_name: str | None) -> Text:
    tuned = f"all {count_text(plan.num_parameters)} weights tuned"
    if plan.num_tuned_parameters < plan.num_parameters:
        tuned = f"{count_text(plan.num_tuned_parameters)} LoRA weights on {count_text(plan.num_parameters)}"
    device = device_name or ("GPU" if plan.device == "cuda" else "CPU")
    recomputed = ", gradient checkpointing" if plan.gradient_checkpointing else ""
    return Text.assemble(
        (plan.model, "bold"),
        f"  {tuned}\n",
        (f"{device}, {size_text(plan.memory_bytes)}, {plan.precision}, {plan.attention}{recomputed}\n", "dim"),
    )


def _memory(plan: Plan) -> Table:
    scale = max(plan.usable_bytes, plan.peak_bytes)
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    for name, size in plan.parts.items():
        if size:
            table.add_row(_PART_LABELS[name], size_text(size), Text(_bar(size, scale), style="cyan"))
    style = "green" if plan.fits else "red"
    table.add_row(
        Text("peak", style="bold"),
        Text(size_text(plan.peak_bytes), style="bold"),
        Text(_bar(plan.peak_bytes, scale), style=style),
    )
    table.add_row(
        Text("usable", style="dim"),
        Text(size_text(plan.usable_bytes), style="dim"),
        Text(_bar(plan.usable_bytes, scale), style="dim"),
    )
    return table


def _bar(size: float, scale: float) -> str:
    eighths = round(8 * _BAR_CELLS * size / scale)
    rest = " ▏▎▍▌▋▊▉"[eighths % 8].strip()
    return "█" * (eighths // 8) + rest or "▏"


def _facts(plan: Plan) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    examples = plan.micro_batch_tokens / plan.longest_example_tokens
    table.add_row("micro-batch", f"{plan.micro_batch_tokens:,} tokens, {examples:.3g} of the longest examples")
    table.add_row("fullest at", plan.memory.moment)
    table.add_row("step", _step_time(plan))
    if plan.timing.steps_per_epoch is not None:
        table.add_row("epoch", _epoch_time(plan))
    nightly = plan.timing.steps_within(9.0)
    if nightly is not None and plan.fits:
        table.add_row("9 hours", f"training.max_steps={nightly}")
    if plan.seconds_per_step is not None:
        table.add_row("assumed", _assumptions(plan))
    table.add_row("checkpoint", f"{size_text(plan.checkpoint_bytes)} each, up to {size_text(plan.disk_bytes)} on disk")
    return table


def _step_time(plan: Plan) -> str:
    timing = plan.timing
    if timing.seconds_per_step is None:
        return "unknown: hardware.peak_tflops is not set, or says nothing about this precision"
    return f"about {duration_text(timing.seconds_per_step)}, {timing.recipes_per_second:,.3g} recipes/s"


def _assumptions(plan: Plan) -> str:
    timing = plan.timing
    lengths = "as is typical" if timing.lengths_are_estimated else "on average"
    return (
        f"{timing.assumed_utilisation:.0%} of the peak; recipes of {timing.mean_source_tokens:.0f} + "
        f"{timing.mean_target_tokens:.0f} tokens, {lengths}"
    )


def _epoch_time(plan: Plan) -> str:
    steps = f"{plan.timing.steps_per_epoch:,} steps"
    if plan.hours_per_epoch is None:
        return steps
    return f"about {duration_text(plan.hours_per_epoch * 3600)}, {steps}"


def _verdict(plan: Plan, free_bytes: int | None) -> RenderableType:
    of_memory = f"{size_text(plan.peak_bytes)} of {size_text(plan.usable_bytes)} usable"
    if plan.fits:
        lines = [Text.assemble(("fits", "bold green"), f"  {of_memory}")]
        if free_bytes is not None and plan.peak_bytes > free_bytes:
            lines.append(
                Text.assemble(
                    ("but", "bold yellow"),
                    f"   only {size_text(free_bytes)} are free at present; end what else runs on the GPU",
                )
            )
        return Group(*lines)
    headline = Text.assemble(("does not fit", "bold red"), f"  {of_memory}")
    if not plan.advice:
        return Group(headline, _smallest_device(plan))
    advice = Table.grid(padding=(0, 2))
    advice.add_column(justify="right", no_wrap=True)
    advice.add_column()
    for change in plan.advice:
        text = Text.assemble((" ".join(change.overrides), "bold"), "\n", (change.price, "dim"))
        advice.add_row(size_text(change.peak_bytes), text)
    return Group(headline, Text("It fits with one of these, cheapest first:"), Padding(advice, (0, 0, 0, 2)))


def _smallest_device(plan: Plan) -> Text:
    leanest = " ".join(plan.leanest_overrides)
    settings = ("with ", (leanest, "bold")) if leanest else ("for these settings",)
    return Text.assemble(f"Take a smaller model, or a device of {size_text(plan.leanest_memory_bytes)} ", *settings)
