"""`task=diff`: in what two runs differ, read from their folders alone."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.task import DiffTask
from recipe_exp.errors import ConfigError
from recipe_exp.reports.numbers import show_number
from recipe_exp.reports.run_diff import Effect, RunDiff, diff_runs
from recipe_exp.reports.run_summary import RunSummary, read_summary
from recipe_exp.tasks.json_file import save_json
from recipe_exp.tracking import RunFolder, find_run, list_runs

_STYLES: dict[Effect, str] = {"numbers": "bold yellow", "perhaps": "yellow", "last digits": "", "nothing": "dim"}
_MAX_PATCH_LINES = 20


def run(config: ExperimentConfig) -> int:
    """Shows the differences and returns the process's exit code."""
    task = config.task
    assert isinstance(task, DiffTask)
    first, second = (read_summary(folder) for folder in _two_runs(Path(config.output_dir), task.runs))
    found = diff_runs(first, second)
    print_diff(Console(highlight=False, markup=False), first, second, found)
    if task.output is not None:
        save_diff(Path(task.output), first, second, found)
        print(f"saved {task.output}")
    return 0


def print_diff(console: Console, first: RunSummary, second: RunSummary, found: RunDiff) -> None:
    """Shows only what differs, what that can change, and the metrics of both runs."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("", no_wrap=True)
    for side in (first, second):
        table.add_column(Text(f"{side.name}\n{side.run_id}"), overflow="fold", min_width=12)
    table.add_column("can change", no_wrap=True)
    for title, part in found.parts.items():
        _add_title(table, title if part else f"{title}: {'not known' if title in found.unknown else 'the same'}")
        for each in part:
            style = _STYLES[each.effect]
            cells = (f"  {each.name}", each.first or "-", each.second or "-", str(each.effect))
            table.add_row(*(Text(cell, style) for cell in cells))
    if found.metrics:
        _add_title(table, "metrics, last evaluation", "difference")
        for row in found.metrics:
            numbers = (_number(row.first), _number(row.second), _change(row.first, row.second))
            table.add_row(f"  {row.name}", *map(Text, numbers))
    console.print(table)
    _print_patches(console, found)
    console.print()
    console.print(Text(found.conclusion), soft_wrap=True)


def save_diff(path: Path, first: RunSummary, second: RunSummary, found: RunDiff) -> None:
    """Writes everything that differs as JSON.

    Raises:
        ConfigError: if the file cannot be written.
    """
    content = {
        "runs": [first.run_id, second.run_id],
        "differences": {title: [asdict(each) for each in part] for title, part in found.parts.items()},
        "metrics": {row.name: [row.first, row.second] for row in found.metrics},
        "equal_values": found.num_equal_points,
        "common_values": found.num_common_points,
        "first_unequal": found.first_unequal,
        "patches": list(found.patches),
        "conclusion": found.conclusion,
    }
    save_json(path, content)


def _two_runs(output_dir: Path, names: tuple[str, ...]) -> list[RunFolder]:
    newest = list_runs(output_dir, kind="run")[:2][::-1] if not names else []
    folders = newest or [find_run(output_dir, name) for name in names]
    if len(folders) != 2:
        found = f"{len(folders)} run" if len(folders) == 1 else f"{len(folders)} runs"
        raise ConfigError([f"task.runs=[{','.join(names)}]: {found}; name two, as in task.runs=[RUN,RUN]"])
    for folder, name in zip(folders, names, strict=False):
        if folder.read_record().get("kind") != "run":
            raise ConfigError([f"task.runs: {name} is no single run; name one of its trials, or best:{name}"])
    return folders


def _add_title(table: Table, title: str, last: str = "") -> None:
    table.add_row()
    table.add_row(Text(title, "bold"), "", "", Text(last, "bold"))


def _print_patches(console: Console, found: RunDiff) -> None:
    if not found.patches:
        return
    console.print()
    console.print(Text("uncommitted changes of the first run (-) and of the second (+)", "bold"))
    for line in found.patches[2 : _MAX_PATCH_LINES + 2]:
        style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "dim")
        console.print(Text(f"  {line}", style), soft_wrap=True)
    num_more = len(found.patches) - _MAX_PATCH_LINES - 2
    if num_more > 0:
        console.print(f"  and {num_more:,} more lines; task.output=FILE keeps all of them")


def _number(value: float) -> str:
    return "-" if math.isnan(value) else show_number(value)


def _change(first: float, second: float) -> str:
    if first == second:
        return "equal"
    change = second - first
    return "" if math.isnan(change) else f"{'+' if change > 0 else '-'}{show_number(abs(change))}"
