"""`task=compare`: runs side by side, read from their folders alone, and which of them is the best."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.messages import show_value
from recipe_exp.config.task import CompareTask
from recipe_exp.errors import CheckpointError, ConfigError
from recipe_exp.files import write_result
from recipe_exp.reports.html import as_html
from recipe_exp.reports.numbers import show_number
from recipe_exp.reports.run_summary import RunSummary, read_summary
from recipe_exp.reports.verdict import MAX_NAMED_KEYS, Verdict, judge
from recipe_exp.reports.verdict_page import verdict_page
from recipe_exp.reports.verdict_table import print_verdict
from recipe_exp.reports.verdict_text import as_data
from recipe_exp.tasks.json_file import save_json
from recipe_exp.tracking import RunFolder, find_run, list_runs

_RUNS_BESIDE_EACH_OTHER = 6
_MAX_WIDTH = 160
_HTML = (".html", ".htm")


def run(config: ExperimentConfig) -> int:
    """Shows the comparison and returns the process's exit code."""
    task = config.task
    assert isinstance(task, CompareTask)
    console = Console(soft_wrap=True, markup=False, highlight=False)
    runs = list(_read(console, _folders(Path(config.output_dir), task.runs)))
    if not runs:
        raise CheckpointError(f"task.runs: no run under {config.output_dir}; train one, or set output_dir")
    verdict = judge(runs)
    print_verdict(Console(highlight=False), verdict)
    for table in [*_tables_of_keys(verdict), *_tables_of_metrics(verdict.runs)]:
        console.print()
        _print_whole(console, table)
    if task.output is not None:
        _save(Path(task.output), verdict)
        console.print(f"saved {task.output}")
    return 0


def _read(console: Console, folders: Sequence[RunFolder]) -> Iterator[RunSummary]:
    for folder in folders:
        try:
            yield read_summary(folder)
        except ConfigError as error:
            console.print(f"note: left out, {error.mistakes[0]}", style="yellow")


def _folders(output_dir: Path, names: Sequence[str]) -> list[RunFolder]:
    """Returns the named runs in the order of their names, or all of them, the oldest first."""
    everything = list_runs(output_dir, kind="run")[::-1]
    if not names:
        return everything
    found: dict[Path, RunFolder] = {}
    for name in names:
        folder = find_run(output_dir, name)
        is_sweep = folder.read_record().get("kind") == "sweep"
        trials = [each for each in everything if each.read_record().get("parent_run_id") == folder.run_id]
        found |= {each.path: each for each in (trials if is_sweep else [folder])}
    return list(found.values())


def _tables_of_keys(verdict: Verdict) -> Iterator[Table]:
    """The few keys that differ stand in the ranking itself."""
    keys = verdict.axes if len(verdict.axes) > MAX_NAMED_KEYS else ()
    rows = {key: [show_value(each.keys[key]) if key in each.keys else "" for each in verdict.runs] for key in keys}
    return _transposed("key", rows, verdict.runs)


def _tables_of_metrics(runs: Sequence[RunSummary]) -> Iterator[Table]:
    last = [each.last_evaluation for each in runs]
    names = sorted({name for metrics in last for name in metrics})
    rows = {name: [show_number(metrics[name]) if name in metrics else "" for metrics in last] for name in names}
    return _transposed("last evaluation", rows, runs)


def _transposed(title: str, rows: Mapping[str, Sequence[str]], runs: Sequence[RunSummary]) -> Iterator[Table]:
    """Yields tables with a column for each run, under its place in the ranking; none without rows."""
    for start in range(0, len(runs) if rows else 0, _RUNS_BESIDE_EACH_OTHER):
        places = range(start, min(start + _RUNS_BESIDE_EACH_OTHER, len(runs)))
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column(title)
        for place in places:
            table.add_column(str(place + 1), justify="right")
        for name, cells in rows.items():
            table.add_row(name, *(Text(cells[place]) for place in places))
        yield table


def _print_whole(console: Console, table: Table) -> None:
    """A cell that is cut says nothing; a narrow terminal wraps whole lines."""
    table.width = Measurement.get(console, console.options.update(max_width=_MAX_WIDTH), table).maximum
    console.print(table, crop=False)


def _save(path: Path, verdict: Verdict) -> None:
    if path.suffix not in _HTML:
        save_json(path, {**as_data(verdict), "runs": [_as_data(each) for each in verdict.runs]})
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_result(path, as_html(verdict_page(verdict, f"{len(verdict.runs)} runs compared")).encode())
    except OSError as error:
        raise ConfigError([f"task.output={path}: cannot be written ({error.strerror}); choose another file"]) from None


def _as_data(run: RunSummary) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "name": run.name,
        "status": run.status,
        "step": run.step,
        "total_steps": run.total_steps,
        "seconds": run.seconds,
        "keys": run.keys,
        "best": asdict(run.best) if run.best else None,
        "metrics": run.last_evaluation,
    }
