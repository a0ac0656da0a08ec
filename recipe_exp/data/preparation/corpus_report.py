"""What became of the records on their way from files to splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from recipe_exp.config.messages import in_one_line, show_path
from recipe_exp.data.split import Split
from recipe_exp.errors import DataError

REJECTS_FILE = "rejects.jsonl"

_NUM_REASONS_SHOWN = 3


@dataclass(frozen=True)
class ClosePair:
    """Two recipes, one held out and one of the training split, that are not near enough to be called duplicates.

    Attributes:
        similarity: Jaccard similarity of their 4-word shingles.
        held_out: title of the one that is held out.
        training: title of the other.
    """

    similarity: float
    held_out: str
    training: str


@dataclass(frozen=True)
class CorpusReport:
    """What became of the records.

    Attributes:
        num_examples: recipes of each split.
        rejected: unreadable and incomplete records by reason.
        first_rejection: file and line of the first one of each reason, as `file:line`.
        num_low_quality: records whose score is below `data.min_quality_score`.
        num_duplicates: records left out because a better one of their cluster stays: with the same normalised title and
            ingredient lines, or nearly the same text.
        num_blank_lines: lines without any record; they are no part of `num_records`.
        num_other_language: records whose instructions are not in `data.language`.
        num_leaks: training records left out because they are near one that is held out.
        num_clusters: groups of two or more records that are the same or nearly so.
        num_in_clusters: records in such groups, those that stay included.
        closest: the most similar pairs left across the split, the most similar first; of those below a similarity of
            0.7, chance decides which are found.
    """

    num_examples: Mapping[Split, int]
    rejected: Mapping[str, int]
    first_rejection: Mapping[str, str]
    num_low_quality: int
    num_duplicates: int
    num_blank_lines: int
    num_other_language: int = 0
    num_leaks: int = 0
    num_clusters: int = 0
    num_in_clusters: int = 0
    closest: tuple[ClosePair, ...] = field(default=())

    @property
    def num_rejected(self) -> int:
        """Unreadable and incomplete records."""
        return sum(self.rejected.values())

    @property
    def num_records(self) -> int:
        """All records that were read, whatever became of them."""
        num_left_out = self.num_low_quality + self.num_other_language + self.num_duplicates + self.num_leaks
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
