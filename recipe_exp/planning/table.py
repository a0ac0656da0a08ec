"""A plan as a person likes to read it."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from recipe_exp.files import size_text
from recipe_exp.planning.memory import FRAGMENTATION_SHARE
from recipe_exp.planning.parameters import count_text
from recipe_exp.planning.plan import Plan

_BAR_CELLS = 10
_PART_LABELS = {
    "weights": "weights",
    "weight_casts": "bf16 copies",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "activations": "activations",
    "logits": "logits",
    "generation": "generated recipes",
    "fragmentation": "fragmentation",
    "overhead": "libraries",
}
_FLOPS_LABELS = {"cross_attention": "cross attention"}


def plan_table(plan: Plan, *, device_name: str | None = None, free_bytes: int | None = None) -> RenderableType:
    """Returns the plan for a terminal: memory by part, time, disk, the verdict and what to change.

    Args:
        plan: what to show.
        device_name: of a device that is there, or is described.
        free_bytes: of its memory, at present.
    """
    sections: list[RenderableType] = [
        _heading(plan, device_name),
        _memory(plan),
        Padding(_facts(plan), (1, 0, 0, 0)),
        *(Padding(Text.assemble(("note", "bold yellow"), f"  {line}"), (1, 0, 0, 0)) for line in plan.warnings),
        Padding(_verdict(plan, free_bytes), (1, 0, 0, 0)),
    ]
    return Padding(Group(*sections), (1, 0, 1, 1))


def plan_line(plan: Plan) -> str:
    """Returns the plan in one line, for the begin of a run."""
    parts = [
        f"{size_text(plan.peak_bytes)} of {size_text(plan.subject.usable_bytes)} usable at most, "
        f"{size_text(plan.typical.peak_bytes)} in a typical step",
        *([f"about {duration_text(plan.seconds_per_step)} a step"] if plan.seconds_per_step is not None else []),
        *([f"{duration_text(plan.hours_per_epoch * 3600)} an epoch"] if plan.hours_per_epoch is not None else []),
    ]
    return ", ".join(parts)


def duration_text(seconds: float) -> str:
    """Returns a duration in the unit that fits it."""
    for unit, length in (("days", 2 * 86400), ("h", 5400), ("min", 90)):
        if seconds >= length:
            return f"{seconds / {'days': 86400, 'h': 3600, 'min': 60}[unit]:.1f} {unit}"
    return f"{seconds:.2g} s" if seconds >= 0.1 else f"{seconds * 1000:.2g} ms"


def _heading(plan: Plan, device_name: str | None) -> Text:
    subject = plan.subject
    tuned = f"all {count_text(subject.num_parameters)} weights tuned"
    if subject.num_tuned_parameters < subject.num_parameters:
        tuned = f"{count_text(subject.num_tuned_parameters)} LoRA weights on {count_text(subject.num_parameters)}"
    device = device_name or ("GPU" if subject.device == "cuda" else "CPU")
    return Text.assemble(
        (subject.model, "bold"),
        f"  {tuned}\n",
        (f"{device}, {size_text(subject.memory_bytes)}, {subject.precision}, {subject.attention}\n", "dim"),
    )


def _memory(plan: Plan) -> Table:
    """Memory by part: of a typical and the largest step, of an evaluation, and with checkpointing the other way."""
    others = plan.alternative
    shown = [plan.typical, plan.step, plan.generation, others.memory]
    scale = max(plan.subject.usable_bytes, plan.peak_bytes)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("memory")
    for header in ("typical\nstep", "largest\nstep", "evaluation"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column(f"{'with' if others.gradient_checkpointing else 'without'}\ncheckpointing", justify="right")
    table.add_column("", no_wrap=True)
    for name, label in _PART_LABELS.items():
        sizes = [each.parts.get(name, 0) if each else 0 for each in shown]
        if any(sizes):
            cells = [size_text(size) if size else "" for size in sizes]
            table.add_row(label, *cells, Text(_bar(plan.parts.get(name, 0), scale), style="cyan"))
    style = "bold green" if plan.fits else "bold red"
    peaks = [
        Text(size_text(each.peak_bytes), style="bold red" if each.peak_bytes > plan.subject.usable_bytes else "bold")
        if each
        else ""
        for each in shown
    ]
    table.add_row(Text("peak", style="bold"), *peaks, Text(_bar(plan.peak_bytes, scale), style=style))
    usable = plan.subject.usable_bytes
    shown_usable = (Text("usable", style="dim"), "", Text(size_text(usable), style="dim"), "", "")
    table.add_row(*shown_usable, Text(_bar(usable, scale), style="dim"))
    table.add_row("micro-batch", "", f"{plan.micro_batch_tokens:,}", "", f"{others.micro_batch_tokens:,}", "tokens")
    if plan.seconds_per_step is not None and others.seconds_per_step is not None:
        seconds = [duration_text(each) for each in (plan.seconds_per_step, others.seconds_per_step)]
        table.add_row("time", seconds[0], "", "", seconds[1], "about")
    return table


def _bar(size: float, scale: float) -> str:
    if not size:
        return ""
    eighths = round(8 * _BAR_CELLS * size / scale)
    rest = " ▏▎▍▌▋▊▉"[eighths % 8].strip()
    return "█" * (eighths // 8) + rest or "▏"


def _facts(plan: Plan) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    table.add_row("lengths", _lengths(plan))
    examples = f"{plan.micro_batch_tokens / plan.longest_example_tokens:.3g} of the longest examples at a time"
    table.add_row("largest step", examples)
    table.add_row("fullest at", plan.memory.moment)
    if plan.generation is not None:
        count = plan.num_generated_at_once
        table.add_row("evaluation", f"writes {count} recipe{'s' if count > 1 else ''} at a time")
    if plan.step.parts["fragmentation"]:
        table.add_row("guessed", f"{FRAGMENTATION_SHARE['cuda']:.0%} of what comes and goes for fragmentation")
    table.add_row("arithmetic", _arithmetic(plan))
    table.add_row("step", _step_time(plan))
    if plan.timing.steps_per_epoch is not None:
        table.add_row("epoch", _epoch_time(plan))
    nightly = plan.timing.steps_within(9.0)
    if nightly is not None and plan.fits:
        table.add_row("9 hours", f"training.max_steps={nightly}")
    disk = plan.disk
    table.add_row("checkpoint", f"{size_text(disk.checkpoint_bytes)} each, up to {size_text(disk.disk_bytes)} on disk")
    return table


def _lengths(plan: Plan) -> str:
    timing = plan.timing
    return (
        f"{timing.mean_source_tokens:.0f} + {timing.mean_target_tokens:.0f} tokens on average, "
        f"{plan.longest_example_tokens:,} at most ({plan.lengths})"
    )


def _arithmetic(plan: Plan) -> str:
    parts = plan.timing.forward_flops
    total = sum(parts.values())
    shares = ", ".join(f"{_FLOPS_LABELS.get(name, name)} {size / total:.0%}" for name, size in parts.items())
    return f"{count_text(plan.timing.flops_per_example)}FLOP a recipe; forward: {shares}"


def _step_time(plan: Plan) -> str:
    timing = plan.timing
    if timing.seconds_per_step is None:
        return "unknown: no run has measured it, and hardware.peak_tflops is not set or says nothing of this precision"
    how = f"assuming {timing.assumed_utilisation:.0%} of the peak" if timing.assumed_utilisation else ""
    how = f"measured by {timing.measured_by}" if timing.measured_by is not None else how
    return f"about {duration_text(timing.seconds_per_step)}, {timing.recipes_per_second:,.3g} recipes/s, {how}"


def _epoch_time(plan: Plan) -> str:
    steps = f"{plan.timing.steps_per_epoch:,} steps"
    if plan.hours_per_epoch is None:
        return steps
    return f"about {duration_text(plan.hours_per_epoch * 3600)}, {steps}"


def _verdict(plan: Plan, free_bytes: int | None) -> RenderableType:
    of_memory = f"{size_text(plan.peak_bytes)} of {size_text(plan.subject.usable_bytes)} usable"
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
    overrides, size = " ".join(plan.leanest.leanest_overrides), size_text(plan.leanest.leanest_memory_bytes)
    settings = ("with ", (overrides, "bold")) if overrides else ("for these settings",)
    return Text.assemble(f"Take a smaller model, or a device of {size} ", *settings)
