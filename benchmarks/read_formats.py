"""Show what the readers make of a folder of files: `read_formats.py PATH [PATH ...]`, with `--files` one line a file.

Each file is read by itself, of whatever name, and counted: its format, the records in it, the recipes that come out,
and the rejected ones by reason. Duplicates are those within a file that have the same title and ingredients. What is
said of a file that is refused as a whole stands in place of the reasons.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from recipe_exp.config.data import DataConfig
from recipe_exp.data.contents import open_contents
from recipe_exp.data.preparation.intake import Accepted, Intake, LeftOut
from recipe_exp.data.preparation.intake_stage import IntakeCounts
from recipe_exp.errors import DataError

REFUSED = "(refused)"


@dataclass
class Counts:
    """What became of the records of one or several files."""

    num_files: int = 0
    num_records: int = 0
    num_recipes: int = 0
    num_duplicates: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, other: Counts) -> None:
        self.num_files += other.num_files
        self.num_records += other.num_records
        self.num_recipes += other.num_recipes
        self.num_duplicates += other.num_duplicates
        self.reasons += other.reasons


def files_in(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        yield from sorted(found for found in path.rglob("*") if found.is_file()) if path.is_dir() else [path]


def read(file: Path, folder: Path) -> tuple[str, Counts]:
    """Returns the name of the file's format, and its counts."""
    counts = Counts(num_files=1)
    intake_counts, keys = IntakeCounts(), Counter[int]()
    try:
        config = DataConfig(path=str(file))
        contents = open_contents(config, folder)
        for outcome in Intake(config).take(contents.rows()):
            if isinstance(outcome, LeftOut):
                intake_counts.add(outcome)
            elif isinstance(outcome, Accepted):
                keys[outcome.key] += 1
    except DataError as error:
        counts.reasons[str(error).removeprefix("data.path=").removeprefix(f"{file}: ")] += 1
        return REFUSED, counts
    counts.num_recipes, counts.num_duplicates = len(keys), keys.total() - len(keys)
    report = intake_counts.report({"train": keys.total(), "validation": 0, "test": 0})
    counts.num_records = report.num_records
    counts.reasons.update(report.rejected)
    return next((known.name for known in contents.formats if known), REFUSED), counts


def table(results: dict[tuple[str, str], Counts]) -> str:
    lines = ["| files | format | files | records in | recipes out | duplicates | rejected, by reason |"]
    lines.append("|---|---|---|---|---|---|---|")
    for (name, known), counts in results.items():
        reasons = "; ".join(f"{count} {reason}" for reason, count in counts.reasons.most_common()) or "-"
        numbers = (counts.num_files, counts.num_records, counts.num_recipes, counts.num_duplicates)
        lines.append(f"| {name} | {known} | {' | '.join(f'{number:,}' for number in numbers)} | {reasons} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--files", action="store_true", help="one line a file instead of one a folder and format")
    arguments = parser.parse_args()
    results: dict[tuple[str, str], Counts] = {}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for file in files_in(arguments.paths):
            known, counts = read(file, Path(folder))
            name = file.name if arguments.files else file.parent.name
            results.setdefault((name, known), Counts()).add(counts)
    print(table(results))
    total = Counts()
    for counts in results.values():
        total.add(counts)
    seconds = time.perf_counter() - start
    read_in = f"{total.num_files:,} files in {seconds:.1f} s"
    print(f"\n{total.num_recipes:,} recipes of {total.num_records:,} records, {read_in}")


if __name__ == "__main__":
    main()
