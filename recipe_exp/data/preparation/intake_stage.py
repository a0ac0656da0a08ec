"""Reads and cleans all rows, on all cores; a killed one goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from recipe_exp.config.data import DataConfig
from recipe_exp.data.append_log import AppendLog
from recipe_exp.data.contents import Contents
from recipe_exp.data.duplicates.shingles import shingle_sets
from recipe_exp.data.duplicates.signatures import signatures
from recipe_exp.data.duplicates.sketches import sketches
from recipe_exp.data.in_order import map_in_processes
from recipe_exp.data.preparation import record_files
from recipe_exp.data.preparation.corpus_report import CorpusReport
from recipe_exp.data.preparation.intake import Accepted, Fate, Intake, LeftOut, Place
from recipe_exp.data.preparation.sources import source_key
from recipe_exp.data.readers.rows import Row
from recipe_exp.data.split import SPLITS, Split

MAX_ROWS_WITHOUT_RECORD = 50_000
"""So many rejected rows without a record among them are refused, and what follows them is not read."""

_CHUNK_ROWS = 512
_LOG = "intake.log"


class IntakeCounts(msgspec.Struct):
    """What became of the rows so far.

    Attributes:
        num_rows: rows that were looked at.
        num_records: those that may be learnt from.
        rejected: those that are no records, by reason.
        first_rejection: file and line of the first one of each reason, as `file:line`.
        num_low_quality: those below `data.min_quality_score`.
        num_other_language: those not in `data.language`.
        num_blank_lines: lines without anything.
        is_complete: whether there was no row left, or there were enough records.
    """

    num_rows: int = 0
    num_records: int = 0
    rejected: dict[str, int] = msgspec.field(default_factory=dict)
    first_rejection: dict[str, str] = msgspec.field(default_factory=dict)
    num_low_quality: int = 0
    num_other_language: int = 0
    num_blank_lines: int = 0
    is_complete: bool = False

    def add(self, outcome: LeftOut) -> None:
        """Counts a row that is left out."""
        match outcome.fate:
            case Fate.BLANK:
                self.num_blank_lines += 1
            case Fate.LOW_QUALITY:
                self.num_low_quality += 1
            case Fate.OTHER_LANGUAGE:
                self.num_other_language += 1
            case Fate.REJECTED:
                self.rejected[outcome.reason] = self.rejected.get(outcome.reason, 0) + 1
                place = f"{outcome.place.file}:{outcome.place.line_number}"
                self.first_rejection.setdefault(outcome.reason, place)

    def is_hopeless(self, max_rejected_fraction: float) -> bool:
        """Whether so many rows were rejected, and not one of them accepted, that reading on is of no use."""
        num_rejected = sum(self.rejected.values())
        is_enough = num_rejected >= MAX_ROWS_WITHOUT_RECORD and not self.num_records
        return is_enough and num_rejected > max_rejected_fraction * self.num_rows

    def report(self, num_examples: dict[Split, int]) -> CorpusReport:
        """Returns what became of the rows where duplicates have not been looked for."""
        return CorpusReport(
            num_examples=num_examples,
            rejected=dict(self.rejected),
            first_rejection=dict(self.first_rejection),
            num_low_quality=self.num_low_quality,
            num_duplicates=0,
            num_blank_lines=self.num_blank_lines,
            num_other_language=self.num_other_language,
        )


@dataclass(frozen=True)
class _Chunk:
    """What becomes of some rows, encoded by whoever looked at them; each outcome has the number of its row."""

    num_rows: int
    accepted_rows: list[int]
    records: list[bytes]
    places: list[bytes]
    splits: npt.NDArray[np.uint8]
    keys: npt.NDArray[np.uint64]
    scores: npt.NDArray[np.float32]
    signatures: npt.NDArray[np.uint64]
    sketches: npt.NDArray[np.uint64]
    source_keys: npt.NDArray[np.uint64]
    left_out: list[tuple[int, LeftOut]]

    def up_to(self, num_records: int) -> _Chunk:
        """Returns what becomes of the rows up to the one that is so many-th of the accepted ones."""
        num_rows = self.accepted_rows[num_records - 1] + 1
        return _Chunk(
            num_rows,
            self.accepted_rows[:num_records],
            self.records[:num_records],
            self.places[:num_records],
            self.splits[:num_records],
            self.keys[:num_records],
            self.scores[:num_records],
            self.signatures[:num_records],
            self.sketches[:num_records],
            self.source_keys[:num_records],
            [(row, outcome) for row, outcome in self.left_out if row < num_rows],
        )


def take_all(
    config: DataConfig,
    contents: Contents,
    folder: Path,
    num_workers: int,
    progress: Callable[[int], None],
) -> IntakeCounts:
    """Writes the files of `record_files` and returns what became of the rows.

    Args:
        config: the `data` section.
        contents: the rows.
        folder: where the files are written, and those of a killed process are continued unless a file was touched
            meanwhile: it may have been read while it was another one.
        num_workers: processes that clean.
        progress: told now and then how many rows were looked at.

    Rows among whose first there is no record are not read to their end; the counts then are not complete.
    """
    origin = repr(contents.states)
    with AppendLog(folder, _LOG, record_files.RECORD_FILES, IntakeCounts(), origin) as log:
        if log.state.is_complete:
            return log.state
        remaining = islice(contents.rows(), log.state.num_rows, None)
        for chunk in map_in_processes(partial(_take, config), _chunks(remaining), num_workers):
            _append(log, chunk, config.max_examples)
            progress(log.state.num_rows)
            if log.state.is_complete or log.state.is_hopeless(config.max_rejected_fraction):
                return log.state
        log.commit(msgspec.structs.replace(log.state, is_complete=True))
        return log.state


def reject_line(place: Place, reason: str) -> bytes:
    """Returns a line of `rejects.jsonl`."""
    return msgspec.json.encode({"file": place.file, "line": place.line_number, "reason": reason}) + b"\n"


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    remaining = iter(rows)
    while chunk := list(islice(remaining, _CHUNK_ROWS)):
        yield chunk


def _take(config: DataConfig, rows: list[Row]) -> _Chunk:
    outcomes = list(enumerate(Intake(config).take(rows)))
    accepted = [(row, outcome) for row, outcome in outcomes if isinstance(outcome, Accepted)]
    sets = shingle_sets(one.record.text for _, one in accepted)
    return _Chunk(
        num_rows=len(rows),
        accepted_rows=[row for row, _ in accepted],
        records=[msgspec.json.encode(one.record) + b"\n" for _, one in accepted],
        places=[msgspec.json.encode((one.place.file, one.place.line_number)) + b"\n" for _, one in accepted],
        splits=np.array([SPLITS.index(one.split) for _, one in accepted], dtype=np.uint8),
        keys=np.array([one.key for _, one in accepted], dtype=np.uint64),
        scores=np.array([one.record.quality_score for _, one in accepted], dtype=np.float32),
        signatures=signatures(sets),
        sketches=sketches(sets),
        source_keys=np.array([source_key(one.record.source) for _, one in accepted], dtype=np.uint64),
        left_out=[(row, outcome) for row, outcome in outcomes if isinstance(outcome, LeftOut)],
    )


def _append(log: AppendLog[IntakeCounts], chunk: _Chunk, max_records: int | None) -> None:
    counts = log.state
    missing = max_records - counts.num_records if max_records is not None else None
    is_enough = missing is not None and len(chunk.records) >= missing
    if missing is not None and is_enough:
        chunk = chunk.up_to(missing)
    for _, outcome in chunk.left_out:
        counts.add(outcome)
        if outcome.fate is not Fate.BLANK:
            log.append(record_files.REJECTS, reject_line(outcome.place, outcome.reason))
    end = log.size(record_files.RECORDS)
    ends = end + np.cumsum([len(line) for line in chunk.records], dtype=np.int64)
    log.append(record_files.RECORDS, b"".join(chunk.records))
    log.append(record_files.ENDS, ends.tobytes())
    log.append(record_files.PLACES, b"".join(chunk.places))
    log.append(record_files.SPLIT_NUMBERS, chunk.splits.tobytes())
    log.append(record_files.KEYS, chunk.keys.tobytes())
    log.append(record_files.SCORES, chunk.scores.tobytes())
    log.append(record_files.SIGNATURES, chunk.signatures.tobytes())
    log.append(record_files.SKETCHES, chunk.sketches.tobytes())
    log.append(record_files.SOURCE_KEYS, chunk.source_keys.tobytes())
    counts.num_rows += chunk.num_rows
    counts.num_records += len(chunk.records)
    counts.is_complete = is_enough
    log.commit(counts)
