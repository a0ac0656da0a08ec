"""`task=validate_metrics`: whether each recipe metric sees the faults that it is meant to see, on one's own recipes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.task import ValidateMetricsTask
from recipe_exp.data.preparation.prepared import PreparedData
from recipe_exp.data.split import Split
from recipe_exp.data.tokens.cache import num_cores, open_or_prepare
from recipe_exp.errors import DataError
from recipe_exp.evaluation.learnt import knowledge_of, recipes_of
from recipe_exp.files import write_result
from recipe_exp.metrics.validation import Cell, Validation, validate_metrics
from recipe_exp.recipes import Recipe
from recipe_exp.tasks.places import cache_dir_of

HELD_OUT: tuple[Split, ...] = ("validation", "test")
BLIND_FROM, BLIND_TO = 0.45, 0.55
RESULT_FILE = "metric_validation.json"
_CELL_CHARACTERS = len("![0.97]")
_GAP = 2


def run(config: ExperimentConfig) -> int:
    """Spoils held-out recipes in every way, prints how often each metric notices, and saves it."""
    task = config.task
    assert isinstance(task, ValidateMetricsTask)
    console = Console(soft_wrap=True, markup=False)
    cache_dir = cache_dir_of(config)
    workers = config.hardware.num_workers
    prepared = open_or_prepare(
        config.data, cache_dir=cache_dir, num_workers=num_cores() if workers == "auto" else workers
    )
    genuine = list(islice(_held_out(prepared), task.max_recipes))
    if len(genuine) < 2:
        raise DataError(
            f"{len(genuine)} recipes are held out and at least 2 are needed; raise data.validation_fraction"
        )
    knowledge = knowledge_of(prepared, cache_dir)
    copied_from = list(islice(recipes_of(prepared, "train"), task.max_recipes))
    validation = validate_metrics(genuine, knowledge, copied_from, seed=config.seed)
    output = Path(task.output) if task.output else Path(config.output_dir) / RESULT_FILE
    output.parent.mkdir(parents=True, exist_ok=True)
    write_result(output, json.dumps(validation.to_dict(), indent=1).encode())
    _show(console, validation, len(genuine), knowledge.num_recipes)
    console.print(f"saved {output}", highlight=False)
    return 0


def _held_out(prepared: PreparedData) -> Iterator[Recipe]:
    for split in HELD_OUT:
        yield from recipes_of(prepared, split)


def _show(console: Console, validation: Validation, num_genuine: int, num_learnt_from: int) -> None:
    """Prints the matrix: metrics down, faults across, in as many parts as the width of the terminal asks for."""
    console.print(
        "How often a genuine recipe scores above itself spoilt, a draw counting half: "
        f"{num_genuine:,} held-out recipes, learnt from {num_learnt_from:,} others.\n"
        "[0.97] meant to see it   (0.50) meant to ignore it   ! fails that",
        highlight=False,
    )
    for part in _parts(validation, console.width):
        console.print(_table(validation, part))
    if validation.severities:
        console.print("By severity: 10 %, 30 %, 50 %, 100 %")
        console.print(_severity_table(validation))


def _parts(validation: Validation, width: int) -> Iterator[Sequence[str]]:
    """Yields as many faults as fit beside the names of the metrics, at least one."""
    names = max(map(len, _metric_names(validation)))
    free, part = width - names, list[str]()
    for fault in validation.matrix:
        needed = max(*map(len, fault.split("_")), _CELL_CHARACTERS) + _GAP
        if part and needed > free:
            yield part
            free, part = width - names, []
        part.append(fault)
        free -= needed
    yield part


def _metric_names(validation: Validation) -> Iterable[str]:
    return dict.fromkeys(name for row in validation.matrix.values() for name in row)


def _table(validation: Validation, faults: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    table.add_column("metric", no_wrap=True)
    for fault in faults:
        table.add_column(fault.replace("_", "\n"), justify="right", no_wrap=True)
    for name in _metric_names(validation):
        table.add_row(name, *(_shown(validation.matrix[fault].get(name)) for fault in faults))
    return table


def _severity_table(validation: Validation) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("fault", "metric", "AUC"):
        table.add_column(title)
    for fault, row in validation.severities.items():
        for name, values in row.items():
            table.add_row(fault, name, "  ".join(f"{value:.2f}" for value in values))
    return table


def _shown(cell: Cell | None) -> Text:
    if cell is None:
        return Text("")
    value = f"{cell.auc:.2f}"
    fails = cell.auc < BLIND_FROM or (cell.ignored and cell.auc > BLIND_TO)
    mark = "!" if fails else ""
    if cell.intended:
        return Text(f"{mark}[{value}]", style="bold")
    if cell.ignored:
        return Text(f"{mark}({value})", style="" if fails else "dim")
    return Text(f"{mark}{value} ")
