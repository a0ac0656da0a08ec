"""`task=compare`: runs side by side, read from their folders alone."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.messages import show_value
from recipe_exp.config.relevance import numbers_relevant, short_names
from recipe_exp.config.task import CompareTask
from recipe_exp.errors import CheckpointError, ConfigError
from recipe_exp.tasks.numbers import show_number
from recipe_exp.tracking import RunFolder, find_run, is_abandoned, list_runs

_RUNS_BESIDE_EACH_OTHER = 6
_KEYS_BESIDE_EACH_OTHER = 3
_MAX_WIDTH = 160
_STYLES = {"finished": "green", "failed": "red", "interrupted": "yellow"}
_EVALUATION = "eval/"


@dataclass(frozen=True)
class ComparedRun:
    """What one run was and came to.

    Attributes:
        run_id: of the run.
        name: that people gave it, or that was made of what differs from the defaults.
        status: `running`, `finished`, `interrupted` or `failed`.
        step: steps done when it ended; None if it never said.
        total_steps: steps of the whole run; None before its first.
        keys: every numbers-relevant key.
        best: metric, step and value of the best evaluated step; None without one.
        metrics: the last value of every evaluation metric.
    """

    run_id: str
    name: str
    status: str
    step: int | None
    total_steps: int | None
    keys: Mapping[str, Any]
    best: Mapping[str, Any] | None
    metrics: Mapping[str, float]


def run(config: ExperimentConfig) -> int:
    """Shows the comparison and returns the process's exit code."""
    task = config.task
    assert isinstance(task, CompareTask)
    console = Console(soft_wrap=True, markup=False)
    folders = _folders(Path(config.output_dir), task.runs)
    runs = []
    for folder in folders:
        try:
            runs.append(read_run(folder))
        except ConfigError as error:
            console.print(f"note: left out, {error.mistakes[0]}", style="yellow", highlight=False)
    if not runs:
        raise CheckpointError(f"task.runs: no run under {config.output_dir}; train one, or set output_dir")
    differing = differing_keys(runs)
    few = differing if len(differing) <= _KEYS_BESIDE_EACH_OTHER else []
    _print_whole(console, _table_of_runs(runs, few))
    for table in [*_tables_of_keys(runs, [] if few else differing), *_tables_of_metrics(runs)]:
        console.print()
        _print_whole(console, table)
    if task.output is not None:
        _save(Path(task.output), runs, differing)
        console.print(f"saved {task.output}", highlight=False)
    return 0


def read_run(folder: RunFolder) -> ComparedRun:
    """Returns what a run was and came to, whatever version of recipe_exp wrote it.

    Raises:
        CheckpointError: if a later version wrote it.
        ConfigError: if its configuration cannot be read.
    """
    record = folder.read_record()
    status = str(record.get("status"))
    was_killed = status == "running" and is_abandoned(folder, record)
    return ComparedRun(
        run_id=folder.run_id,
        name=str(record.get("run_name", folder.path.name)),
        status="interrupted" if was_killed else status,
        step=record.get("step"),
        total_steps=record.get("total_steps"),
        keys=numbers_relevant(ExperimentConfig.from_yaml(folder.config_path)),
        best=record.get("best"),
        metrics=dict(sorted(_last_evaluation(folder.metrics_path).items())),
    )


def differing_keys(runs: Sequence[ComparedRun]) -> list[str]:
    """Returns the numbers-relevant keys in which not all runs agree; a key that a run lacks differs."""
    keys = dict.fromkeys(key for each in runs for key in each.keys)
    return [key for key in keys if any(each.keys.get(key, ...) != runs[0].keys.get(key, ...) for each in runs)]


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


def _last_evaluation(path: Path) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            entry = json.loads(line)["metrics"]
        except (ValueError, KeyError, TypeError):  # half a line that a kill left
            continue
        found = {name: value for name, value in entry.items() if name.startswith(_EVALUATION)}
        metrics |= {name: math.nan if value is None else float(value) for name, value in found.items()}
    return metrics


def _table_of_runs(runs: Sequence[ComparedRun], differing: Sequence[str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    metrics = {each.best["metric"] for each in runs if each.best}
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("run", no_wrap=True)
    table.add_column("name", overflow="fold")
    table.add_column("status", no_wrap=True)
    table.add_column("steps", justify="right", no_wrap=True)
    for name in short_names(differing).values():
        table.add_column(Text(name), no_wrap=True)
    table.add_column(Text(f"best {metrics.pop()}" if len(metrics) == 1 else "best"), no_wrap=True)
    for number, each in enumerate(runs, 1):
        table.add_row(
            str(number),
            each.run_id,
            Text(each.name),
            Text(each.status, style=_STYLES.get(each.status, "")),
            _steps(each),
            *(Text(show_value(each.keys[key]) if key in each.keys else "") for key in differing),
            Text(_best(each.best, with_name=bool(metrics))),
        )
    return table


def _steps(each: ComparedRun) -> str:
    if each.total_steps is None:
        return ""
    return (
        f"{each.total_steps:,}" if each.step == each.total_steps else f"{_or_unknown(each.step)}/{each.total_steps:,}"
    )


def _or_unknown(step: int | None) -> str:
    return "?" if step is None else f"{step:,}"


def _best(best: Mapping[str, Any] | None, *, with_name: bool) -> str:
    if best is None:
        return ""
    name = f"{best['metric']} " if with_name else ""
    return f"{name}{show_number(float(best['value']))} at {best['step']:,}"


def _tables_of_keys(runs: Sequence[ComparedRun], keys: Sequence[str]) -> Iterator[Table]:
    rows = {key: [show_value(each.keys[key]) if key in each.keys else "" for each in runs] for key in keys}
    return _transposed("key", rows, len(runs))


def _tables_of_metrics(runs: Sequence[ComparedRun]) -> Iterator[Table]:
    names = sorted({name for each in runs for name in each.metrics})
    rows = {name: [show_number(each.metrics[name]) if name in each.metrics else "" for each in runs] for name in names}
    return _transposed("last evaluation", rows, len(runs))


def _transposed(title: str, rows: Mapping[str, Sequence[str]], num_runs: int) -> Iterator[Table]:
    """Yields tables with a column for each run, under the run's number; none without rows."""
    for start in range(0, num_runs if rows else 0, _RUNS_BESIDE_EACH_OTHER):
        numbers = range(start, min(start + _RUNS_BESIDE_EACH_OTHER, num_runs))
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column(title)
        for number in numbers:
            table.add_column(str(number + 1), justify="right")
        for name, cells in rows.items():
            table.add_row(name, *(Text(cells[number]) for number in numbers))
        yield table


def _print_whole(console: Console, table: Table) -> None:
    """A cell that is cut says nothing; a narrow terminal wraps whole lines."""
    table.width = Measurement.get(console, console.options.update(max_width=_MAX_WIDTH), table).maximum
    console.print(table, crop=False)


def _save(path: Path, runs: Sequence[ComparedRun], differing: Sequence[str]) -> None:
    content = {"differing_keys": list(differing), "runs": [_finite(asdict(each)) for each in runs]}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"task.output={path}: cannot be written ({error.strerror}); choose another file"]) from None


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
