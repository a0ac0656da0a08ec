"""Show what `task=validate_metrics` found as the tables of docs/metrics.md, and what it misses of the requirements.

`metric_matrix.py --validation metric_validation.json`. The exit code is 1 if a requirement is missed: for every fault a
metric that is meant for it reaches 0.90 (0.85 for shuffled steps and swapped ingredients), what is meant to be ignored
lies between 0.45 and 0.55, nothing lies under 0.45, and more of a fault is seen at least as well (to 0.01).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

SEEN = 0.90
SEEN_HARDER = {"shuffled_steps": 0.85, "swapped_ingredients": 0.85}
BLIND_FROM, BLIND_TO = 0.45, 0.55
NOISE = 0.01

Matrix = Mapping[str, Mapping[str, Mapping[str, Any]]]


def shown(cell: Mapping[str, Any] | None) -> str:
    """Return a cell: bold where the metric is meant for the fault, in parentheses where it is meant to ignore it."""
    if cell is None:
        return ""
    value = f"{cell['auc']:.2f}"
    return f"**{value}**" if cell["intended"] else f"({value})" if cell["ignored"] else value


def tables(matrix: Matrix) -> Iterator[str]:
    """Yield the lines of three tables: the matrix, the intervals of what is meant to be seen, and severities."""
    faults = list(matrix)
    metrics = list(dict.fromkeys(name for row in matrix.values() for name in row))
    yield f"| metric | {' | '.join(fault.replace('_', ' ') for fault in faults)} |"
    yield f"|---|{'---|' * len(faults)}"
    for name in metrics:
        yield f"| `{name}` | {' | '.join(shown(matrix[fault].get(name)) for fault in faults)} |"
    yield ""
    yield "| fault | metric meant for it | AUC | 95 % | recipes | at 10, 30, 50, 100 % |"
    yield "|---|---|---|---|---|---|"
    for fault, row in matrix.items():
        for name, cell in row.items():
            if cell["intended"]:
                severities = ", ".join(f"{value:.2f}" for value in cell.get("severities", []))
                interval = f"{cell['low']:.2f} - {cell['high']:.2f}"
                yield f"| {fault} | `{name}` | {cell['auc']:.3f} | {interval} | {cell['n']} | {severities} |"


def misses(matrix: Matrix) -> Iterator[str]:
    """Yield a line for each requirement that is missed."""
    for fault, row in matrix.items():
        wanted = SEEN_HARDER.get(fault, SEEN)
        best = max((cell["auc"] for cell in row.values() if cell["intended"]), default=0.0)
        if best < wanted:
            yield f"{fault}: no metric that is meant for it reaches {wanted}, the best {best:.3f}"
        for name, cell in row.items():
            if cell["auc"] < BLIND_FROM or (cell["ignored"] and cell["auc"] > BLIND_TO):
                yield f"{fault}: {name} is at {cell['auc']:.3f}"
            series = cell.get("severities", [])
            if any(more < less - NOISE for less, more in pairwise(series)):
                yield f"{fault}: {name} is not monotone in severity: {series}"


def main() -> int:
    """Print tables and misses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--validation", type=Path, required=True, help="what task=validate_metrics saved")
    matrix = json.loads(parser.parse_args().validation.read_text(encoding="utf-8"))
    print("\n".join(tables(matrix)))
    found = list(misses(matrix))
    print("\n" + ("\n".join(f"missed: {line}" for line in found) or "every requirement is met"))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
