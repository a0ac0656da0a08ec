"""From rows to examples: cleaning, quality, exact duplicates and the split, with every loss counted."""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from recipe_exp.config.data import DataConfig
from recipe_exp.config.messages import in_one_line, show_path
from recipe_exp.data.example import Example
from recipe_exp.data.language import LanguageFilter
from recipe_exp.data.prompts import find_template, make_example
from recipe_exp.data.readers.rows import BLANK_LINE, Pair, Rejection, Row, as_text
from recipe_exp.errors import DataError
from recipe_exp.recipes.cleaning import clean_recipe
from recipe_exp.recipes.markdown import parse_recipe
from recipe_exp.recipes.recipe import Recipe
from recipe_exp.recipes.text import clean_line, normalise_title
from recipe_exp.secrets import redact

# Part of every cache's address: raise it when the same rows would become other examples.
CORPUS_VERSION = 2

MAX_TEXT_CHARACTERS = 100_000
MAX_WORD_CHARACTERS = 2_000
MAX_KEPT_REJECTIONS = 1000
REJECTS_FILE = "rejects.jsonl"

Split: TypeAlias = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

_HASH_RANGE = 2**64
_NUM_REASONS_SHOWN = 3


@dataclass(frozen=True)
class CorpusReport:
    """What became of the records.

    Attributes:
        num_examples: examples of each split.
        rejected: unreadable and incomplete records by reason.
        first_rejection: file and line of the first one of each reason, as `file:line`.
        num_low_quality: records whose score is below `data.min_quality_score`.
        num_duplicates: records whose normalised title and ingredient lines, or whose two texts, came before.
        num_blank_lines: lines without any record; they are no part of `num_records`.
        num_other_language: records whose instructions are not in `data.language`.
    """

    num_examples: Mapping[Split, int]
    rejected: Mapping[str, int]
    first_rejection: Mapping[str, str]
    num_low_quality: int
    num_duplicates: int
    num_blank_lines: int
    num_other_language: int = 0

    @property
    def num_rejected(self) -> int:
        """Unreadable and incomplete records."""
        return sum(self.rejected.values())

    @property
    def num_records(self) -> int:
        """All records that were read, whatever became of them."""
        num_left_out = self.num_low_quality + self.num_other_language + self.num_duplicates
        return sum(self.num_examples.values()) + self.num_rejected + num_left_out

    @property
    def rejected_fraction(self) -> float:
        """Share of unreadable and incomplete records among all that were read; 0 without any."""
        return self.num_rejected / self.num_records if self.num_records else 0.0

    def check(self, max_rejected_fraction: float, rejects_file: Path | None = None) -> None:
        """Refuses a corpus that lost too much.

        Args:
            max_rejected_fraction: `data.max_rejected_fraction`.
            rejects_file: named in the message as the place to look.

        Raises:
            DataError: a larger share of the records was rejected, or no example is left at all.
        """
        look = f"; see {rejects_file}" if rejects_file and self.rejected else ""
        if self.rejected_fraction > max_rejected_fraction:
            raise DataError(
                f"{self.num_rejected} of {self.num_records} records were rejected, more than "
                f"data.max_rejected_fraction={max_rejected_fraction:g}: {self._reasons()}{look}"
            )
        if not sum(self.num_examples.values()):
            found = f"{self.num_records} records, {self.num_rejected} rejected, {self.num_low_quality} of low quality"
            found += f", {self.num_other_language} in other languages" if self.num_other_language else ""
            raise DataError(f"data.path: no usable record ({found}){look}")

    def _reasons(self) -> str:
        most = sorted(self.rejected.items(), key=lambda item: (-item[1], item[0]))
        shown = [
            f"{in_one_line(reason)} ({count}, first {show_path(self.first_rejection[reason])})"
            for reason, count in most[:_NUM_REASONS_SHOWN]
        ]
        rest = len(most) - _NUM_REASONS_SHOWN
        return ", ".join(shown) + (f" and {rest} more reasons" if rest > 0 else "")


class Corpus:
    """Turns rows into examples one at a time, in constant memory.

    Args:
        config: the `data` section.
        folder: where `rejects.jsonl` is written, and the duplicates' keys while the rows are read.
    """

    def __init__(self, config: DataConfig, folder: Path) -> None:
        self._config = config
        self._folder = folder
        self._template = find_template(config.prompt)
        self._num_examples: dict[Split, int] = dict.fromkeys(SPLITS, 0)
        self._rejected: Counter[str] = Counter()
        self._first_rejection: dict[str, str] = {}
        self._languages = LanguageFilter(config.language) if config.language else None
        self._num_low_quality = self._num_duplicates = self._num_blank_lines = self._num_other_language = 0

    @property
    def report(self) -> CorpusReport:
        """What became of the records that were read so far."""
        return CorpusReport(
            num_examples=dict(self._num_examples),
            rejected=dict(self._rejected),
            first_rejection=dict(self._first_rejection),
            num_low_quality=self._num_low_quality,
            num_duplicates=self._num_duplicates,
            num_blank_lines=self._num_blank_lines,
            num_other_language=self._num_other_language,
        )

    def examples(self, rows: Iterable[Row]) -> Iterator[tuple[Split, Example]]:
        """Yields at most `data.max_examples` examples in the order of the rows, each with its split."""
        with closing(_SeenKeys(self._folder / "seen.sqlite")) as seen, _RejectLog(self._folder / REJECTS_FILE) as log:
            for row in rows:
                usable = self._usable(row)
                if isinstance(usable, Rejection):
                    self._count_rejection(usable, log)
                elif usable is not None and not self._is_in_language(usable):
                    self._num_other_language += 1
                    log.write(Rejection(row.file, row.line_number, f"not in data.language={self._config.language}"))
                elif usable is not None and not self._is_duplicate(usable, seen):
                    example = _example(usable, self._template)
                    split = split_of(example.title, self._config.validation_fraction, self._config.test_fraction)
                    self._num_examples[split] += 1
                    yield split, example
                    if sum(self._num_examples.values()) == self._config.max_examples:
                        return

    def _usable(self, row: Row) -> Recipe | Pair | Rejection | None:
        """Returns the clean record, why it is rejected, or None if its quality is too low."""
        if isinstance(row, Rejection):
            return row
        score = row.content.quality_score
        if score is not None and score < self._config.min_quality_score:
            self._num_low_quality += 1
            return None
        excess = _excess(row.content)
        if excess:
            return Rejection(row.file, row.line_number, excess)
        content = _clean(row.content)
        missing = _missing_part(content)
        return Rejection(row.file, row.line_number, f"no {missing}") if missing else content

    def _is_in_language(self, content: Recipe | Pair) -> bool:
        if self._languages is None:
            return True
        text = content.target_text if isinstance(content, Pair) else "\n".join(content.instructions)
        return self._languages.accepts(text)

    def _is_duplicate(self, content: Recipe | Pair, seen: _SeenKeys) -> bool:
        duplicate = not seen.add(_duplicate_key(content))
        self._num_duplicates += duplicate
        return duplicate

    def _count_rejection(self, rejection: Rejection, log: _RejectLog) -> None:
        if rejection.reason == BLANK_LINE:
            self._num_blank_lines += 1
            return
        self._rejected[rejection.reason] += 1
        if rejection.reason not in self._first_rejection:
            self._first_rejection[rejection.reason] = f"{as_text(redact(rejection.file))}:{rejection.line_number}"
        log.write(rejection)


def split_of(title: str, validation_fraction: float, test_fraction: float) -> Split:
    """Returns the split of a recipe, which depends on its normalised title and the two fractions only.

    The title's SHA-256 is a point on a line: the test split takes the left end, the validation split the right
    one. So a recipe moves only out of the training split as a fraction grows, and never between the other two.

    Raises:
        DataError: the fractions leave nothing to train on.
    """
    if validation_fraction + test_fraction >= 1.0:
        raise DataError("data.validation_fraction and data.test_fraction: together they must be less than 1")
    key = normalise_title(title) or title
    point = int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8], "big")
    if point < test_fraction * _HASH_RANGE:
        return "test"
    if _HASH_RANGE - 1 - point < validation_fraction * _HASH_RANGE:
        return "validation"
    return "train"


def _excess(content: Recipe | Pair) -> str:
    """Returns in what a text is more than any recipe, and tokenizing it would take minutes; empty if in nothing."""
    if isinstance(content, Pair):
        texts = [content.source_text, content.target_text]
    else:
        texts = [content.title, *content.ingredients, *content.instructions]
    if sum(map(len, texts)) + len(texts) > MAX_TEXT_CHARACTERS:
        return f"text over {MAX_TEXT_CHARACTERS:,} characters"
    long_texts = (text for text in texts if len(text) > MAX_WORD_CHARACTERS)
    if any(len(word) > MAX_WORD_CHARACTERS for text in long_texts for word in text.split()):
        return f"word over {MAX_WORD_CHARACTERS:,} characters"
    return ""


def _clean(content: Recipe | Pair) -> Recipe | Pair:
    if isinstance(content, Pair):
        return replace(
            content,
            source_text=_clean_text(content.source_text),
            target_text=_clean_text(content.target_text),
        )
    return clean_recipe(content)


def _clean_text(text: str) -> str:
    return "\n".join(clean_line(line) for line in text.splitlines()).strip("\n")


def _missing_part(content: Recipe | Pair) -> str | None:
    if isinstance(content, Pair):
        parts = {"input": content.source_text, "output": content.target_text}
    else:
        # A title without a letter or digit has no key of its own, so it would share its split with all such.
        parts = {
            "title": normalise_title(content.title),
            "ingredients": "".join(content.ingredients),
            "instructions": "".join(content.instructions),
        }
    return next((name for name, text in parts.items() if not text), None)


def _duplicate_key(content: Recipe | Pair) -> bytes:
    if isinstance(content, Pair):
        parts = ["pair", content.source_text, content.target_text]
    else:
        parts = ["recipe", normalise_title(content.title), *content.ingredients]
    return hashlib.sha256(msgspec.json.encode(parts)).digest()[:16]


def _example(content: Recipe | Pair, template: str) -> Example:
    if isinstance(content, Recipe):
        return make_example(content, template)
    recipe = parse_recipe(content.target_text)
    return Example(
        source_text=content.source_text,
        target_text=content.target_text,
        title=recipe.title or content.source_text,
        prompt_ingredients=tuple(line for line in recipe.ingredients if line in content.source_text),
    )


class _SeenKeys:
    """A set of keys on disk, so that memory does not grow with the number of recipes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # Nobody else knows the file, and not every network file system has locks.
        uri = f"{path.absolute().as_uri()}?nolock=1"
        self._connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        # The file dies with the build, so nothing is spent on surviving a crash: one transaction, never committed.
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", "cache_size=-65536"):
            self._connection.execute(f"PRAGMA {pragma}")
        self._connection.execute("CREATE TABLE seen (key BLOB PRIMARY KEY) WITHOUT ROWID")
        self._connection.execute("BEGIN")

    def add(self, key: bytes) -> bool:
        """Returns whether the key is a new one."""
        return self._connection.execute("INSERT OR IGNORE INTO seen VALUES (?)", (key,)).rowcount == 1

    def close(self) -> None:
        self._connection.close()
        self._path.unlink(missing_ok=True)


class _RejectLog:
    """Writes the first rejections as JSON lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._num_written = 0

    def __enter__(self) -> _RejectLog:
        self._file = self._path.open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, rejection: Rejection) -> None:
        if self._num_written < MAX_KEPT_REJECTIONS:
            entry = {"file": as_text(redact(rejection.file)), "line": rejection.line_number, "reason": rejection.reason}
            self._file.write(msgspec.json.encode(entry) + b"\n")
            self._num_written += 1
