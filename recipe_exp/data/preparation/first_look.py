"""A first look at the recipes: what no run can be made of is known before PyTorch is loaded or a folder is made."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from recipe_exp.config.data import DataConfig
from recipe_exp.data.contents import first_contents
from recipe_exp.data.preparation.corpus_report import CorpusReport
from recipe_exp.data.preparation.intake import Intake, LeftOut
from recipe_exp.data.preparation.intake_stage import IntakeCounts
from recipe_exp.data.readers.rows import Row
from recipe_exp.data.split import SPLITS
from recipe_exp.errors import DataError

MAX_FILES = 100
MAX_ROWS = 2_000
MAX_SECONDS = 1.0


def look_at(config: DataConfig) -> None:
    """Reads the first rows of the files that a `data` section stands for, all of them where they are few.

    Raises:
        ConfigError: a reader of one's own cannot be imported.
        DataError: the files cannot be found or read, or, where all of them were read, a run would refuse them.
    """
    contents = first_contents(config, MAX_FILES)
    if contents is None:
        return
    rows = _FirstRows(contents.rows())
    counts, num_examples = IntakeCounts(), dict.fromkeys(SPLITS, 0)
    intake = Intake(config)
    for row in rows:
        outcome = intake.take_one(row)
        if isinstance(outcome, LeftOut):
            counts.add(outcome)
        else:
            num_examples[outcome.split] += 1
            if sum(num_examples.values()) == config.max_examples:
                break
    is_enough = sum(num_examples.values()) == config.max_examples
    if is_enough or (rows.is_at_end and len(contents.files) < MAX_FILES):
        _check(counts.report(num_examples), config)


def _check(report: CorpusReport, config: DataConfig) -> None:
    try:
        report.check(config.max_rejected_fraction)
    except DataError as error:
        raise DataError(f"{error}; task=prepare writes a list of them" if report.rejected else str(error)) from None
    if not report.num_examples["train"]:
        raise DataError("data.path: no example is left in the training split; add recipes or hold fewer out")
    if config.validation_fraction > 0.0 and not report.num_examples["validation"]:
        raise DataError("the validation split holds no recipe; raise data.validation_fraction or add recipes")


class _FirstRows:
    """Rows until there are none left, there were enough of them, or they took too long."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = rows
        self.is_at_end = False

    def __iter__(self) -> Iterator[Row]:
        deadline = time.monotonic() + MAX_SECONDS
        for number, row in enumerate(self._rows):
            if number == MAX_ROWS or time.monotonic() > deadline:
                return
            yield row
        self.is_at_end = True
