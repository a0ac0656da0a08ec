"""Prepared data: recipes that are clean, without duplicates and divided into splits, as files that people can read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import msgspec

from recipe_exp.config.messages import show_path
from recipe_exp.data.card_file import CARD_FILE, Identity, read_card
from recipe_exp.data.contents import remembered_hashes, state_of
from recipe_exp.data.preparation.corpus_report import REJECTS_FILE, CorpusReport
from recipe_exp.data.preparation.statistics import Statistics
from recipe_exp.data.preparation.stored_record import StoredRecord, decode_line
from recipe_exp.data.split import SPLITS, Split
from recipe_exp.errors import DataError

DUPLICATES_FILE = "duplicates.jsonl"
PREPARED_FILES = (*(f"{split}.jsonl" for split in SPLITS), DUPLICATES_FILE, REJECTS_FILE, CARD_FILE)
"""What the folder may hold, the card last."""
# Part of the data fingerprint: raise it when the same lines would mean other recipes.
PREPARED_VERSION = 1


@dataclass(frozen=True)
class PreparedCard:
    """What prepared data is and holds.

    Attributes:
        fingerprint: hash of `identity`.
        identity: everything that decides the splits.
        data_fingerprint: hash of the splits themselves.
        report: what became of the records.
        statistics: what the splits consist of, and where it came from.
        file_bytes: size of the files of splits and rejects, by name.
        file_hashes: SHA-256 of these files, by name.
    """

    fingerprint: str
    identity: Identity
    data_fingerprint: str
    report: CorpusReport
    statistics: Statistics
    file_bytes: Mapping[str, int]
    file_hashes: Mapping[str, str]


@dataclass(frozen=True)
class PreparedData:
    """Splits in a folder.

    Attributes:
        folder: holds `train.jsonl`, `validation.jsonl` and `test.jsonl`; nothing in it may be changed.
        data_fingerprint: hash of the splits, the same on every machine.
        card: what else is known of them; None where they were edited, or come without one.
        states: what the file system said of the file of each split before it was hashed; empty where nobody edits them.
    """

    folder: Path
    data_fingerprint: str
    card: PreparedCard | None = None
    states: tuple[tuple[int, ...], ...] = ()

    @cached_property
    def report(self) -> CorpusReport:
        """What became of the records that the splits were made from; without a card they are counted."""
        return (
            self.card.report
            if self.card is not None
            else counted({split: _num_lines(self.path(split)) for split in SPLITS})
        )

    def path(self, split: Split) -> Path:
        """Returns the file of a split."""
        return self.folder / split_file(split)

    def refuse_changed(self) -> None:
        """Refuses splits that were edited since they were opened: what was read of them is neither of both.

        Raises:
            DataError: they were.
        """
        for split, state in zip(SPLITS, self.states, strict=False):
            file = self.path(split)
            if not file.exists() or state_of(file) != state:
                raise DataError(
                    f"{show_path(file)}: was changed while it was read; start again when nothing writes to it"
                )

    def records(self, split: Split) -> Iterator[StoredRecord]:
        """Yields the records of a split in order.

        Raises:
            DataError: a line is no record.
        """
        with self.path(split).open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield decode_record(line, self.path(split), number)


def counted(num_examples: Mapping[Split, int]) -> CorpusReport:
    """Returns the report of splits of which nothing else is known."""
    return CorpusReport(dict(num_examples), {}, {}, 0, 0, 0)


def split_file(split: Split) -> str:
    """Returns the name of the file of a split."""
    return f"{split}.jsonl"


def decode_record(line: bytes, path: Path, number: int) -> StoredRecord:
    """Returns the record of a line.

    Raises:
        DataError: it is none.
    """
    try:
        record = decode_line(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{show_path(path)}:{number}: {_reason(error)}; task=prepare writes such files") from error
    is_pair = record.input and record.output
    if not is_pair and not (record.title and record.ingredients and record.instructions):
        raise DataError(f"{show_path(path)}:{number}: no whole recipe; take it out, or read the files with data=files")
    return record


def fingerprint_of_splits(hashes: Mapping[Split, str]) -> str:
    """Returns the data fingerprint of splits whose files have these SHA-256 hashes."""
    return sha256(msgspec.json.encode([PREPARED_VERSION, *(hashes[split] for split in SPLITS)])).hexdigest()


def open_folder(path: str, cache_dir: Path, *, is_verified: bool) -> PreparedData:
    """Returns the splits of a folder as they stand, wherever it was prepared.

    Args:
        path: the folder.
        cache_dir: remembers the hashes of its files for as long as they look the same.
        is_verified: whether they are hashed whatever is remembered.

    Raises:
        DataError: it holds no prepared data, or cannot be read.
    """
    folder = Path(path).expanduser()
    files = [folder / split_file(split) for split in SPLITS]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise DataError(
            f"data.path={show_path(path)}: holds no {missing[0]}; make the folder with task=prepare "
            "task.output=FOLDER, or read other files with data=files"
        )
    try:
        states = tuple(map(state_of, files))
        hashes = dict(zip(SPLITS, remembered_hashes(files, cache_dir, is_verified=is_verified), strict=True))
        card = _card_of(folder, hashes)
    except OSError as error:
        raise DataError(f"data.path={show_path(path)}: cannot be read: {error.strerror or error}") from error
    return PreparedData(folder.absolute(), fingerprint_of_splits(hashes), card, states)


def _card_of(folder: Path, hashes: Mapping[Split, str]) -> PreparedCard | None:
    """The card that came with the splits where they are still the same."""
    card = read_card(folder, PreparedCard)
    is_theirs = card is not None and all(card.file_hashes[split_file(split)] == hashes[split] for split in SPLITS)
    return card if is_theirs else None


def _num_lines(file: Path) -> int:
    with file.open("rb") as stream:
        return sum(1 for _ in stream)


def _reason(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__) or type(error).__name__
