"""What prepared data consists of: counted record by record while its splits are written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from heapq import heappush, heapreplace
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from recipe_exp.config.messages import in_one_line
from recipe_exp.data.duplicates.forest import Groups, RowArray, groups_of_labels
from recipe_exp.data.preparation.intake import Place
from recipe_exp.data.preparation.record_files import RecordFiles
from recipe_exp.data.preparation.sources import Origin, Origins, count_sources, source_name
from recipe_exp.data.preparation.stored_record import StoredRecord, title_of
from recipe_exp.data.split import SPLITS, Split
from recipe_exp.secrets import redact

Part: TypeAlias = Literal["title", "ingredients", "instructions", "text"]

NUM_FILES = 50
NUM_SOURCES = 20
NUM_LARGEST_CLUSTERS = 10
NUM_TITLES = 4
NUM_EXAMPLES = 10
WORD_BINS: Mapping[Part, tuple[int, int]] = {
    "title": (1, 16),
    "ingredients": (10, 20),
    "instructions": (25, 20),
    "text": (50, 16),
}
"""How many words a bin spans, and how many bins there are, for each part of a recipe."""
QUALITY_BINS = 20
CLUSTER_SIZES = (1, 2, 3, 4, 5, 10, 20, 50, 100, 1000)
"""The least size of each class of clusters."""
NEAR_BETTER = "near the better recipe"
NEAR_HELD_OUT = "near the held-out recipe"

_MEMBERS_LOOKED_AT = 100
_SALT = b"example\0"


@dataclass(frozen=True)
class Histogram:
    """How often values of each size occur.

    Attributes:
        bin_width: what a bin spans; the first one begins at 0.
        counts: values in each bin; the last one has no upper end.
        mean: of all values; 0 without any.
        largest: of all values; 0 without any.
    """

    bin_width: float
    counts: tuple[int, ...]
    mean: float
    largest: float


@dataclass(frozen=True)
class LeftOutRecords:
    """Records that are left out for one reason.

    Attributes:
        reason: in a few words.
        num_records: how many.
        first: file and line of the first one, as `file:line`.
        beside: likewise of the recipe that it is near to; empty for other reasons.
    """

    reason: str
    num_records: int
    first: str
    beside: str = ""


@dataclass(frozen=True)
class ClusterClass:
    """Clusters of about one size.

    Attributes:
        smallest: the least number of records of such a cluster.
        largest: the greatest; None without a limit.
        num_clusters: how many.
        num_records: records in them.
    """

    smallest: int
    largest: int | None
    num_clusters: int
    num_records: int


@dataclass(frozen=True)
class LargeCluster:
    """One of the largest groups of records that are nearly the same.

    Attributes:
        num_records: its records.
        num_kept: those that stayed.
        titles: some of its titles, those of records that stayed first.
    """

    num_records: int
    num_kept: int
    titles: tuple[str, ...]


@dataclass(frozen=True)
class Statistics:
    """What prepared data consists of.

    Attributes:
        files: of all records that were read; a record that was rejected counts as read.
        sources: of the records that name one and are whole; of addresses on the web only the host counts.
        left_out: by reason, the most frequent first.
        words: words of each part of the recipes of each split; a pair of texts has no parts but its whole `text`, which
            is its answer.
        quality: scores of the records of each split.
        cluster_classes: clusters by size; a record that is like no other one is a cluster of its own.
        largest_clusters: the largest ones of two records or more, the largest first.
        examples: some records of the training split, chosen by a hash of their titles.
    """

    files: Origins
    sources: Origins
    left_out: tuple[LeftOutRecords, ...]
    words: Mapping[Split, Mapping[Part, Histogram]]
    quality: Mapping[Split, Histogram]
    cluster_classes: tuple[ClusterClass, ...]
    largest_clusters: tuple[LargeCluster, ...]
    examples: tuple[StoredRecord, ...]


class StatisticsCounter:
    """Counts what becomes of each record; memory grows with the number of files alone."""

    def __init__(self) -> None:
        self._files: dict[str, list[int]] = {}
        self._left_out: dict[str, LeftOutRecords] = {}
        self._words = {
            split: {part: _Values(width, number) for part, (width, number) in WORD_BINS.items()} for split in SPLITS
        }
        self._quality = {split: _Values(1 / QUALITY_BINS, QUALITY_BINS) for split in SPLITS}
        self._examples = _Examples()

    def count_rejects(self, file: Path) -> None:
        """Counts every line of a list of what was left out before records were compared."""
        with file.open("rb") as lines:
            for line in lines:
                reject = _REJECT.decode(line)
                self._count_file(reject.file, is_kept=False)
                self._count_left_out(reject.reason, Place(reject.file, reject.line))

    def keep(self, split: Split, record: StoredRecord, place: Place) -> None:
        """Counts the next record, which is in a split."""
        self._count_file(place.file, is_kept=True)
        words, num_words = self._words[split], 0
        if record.output is None:
            num_words = len(record.title.split())
            words["title"].add(num_words)
            for part, texts in (("ingredients", record.ingredients), ("instructions", record.instructions)):
                num_in_part = len(" ".join(texts).split())
                words[part].add(num_in_part)  # type: ignore[index]
                num_words += num_in_part
        else:
            num_words = len(record.output.split())
        words["text"].add(num_words)
        if record.quality_score is not None:
            self._quality[split].add(record.quality_score)
        if split == "train":
            self._examples.offer(record)

    def leave_out(self, place: Place, reason: str, beside: Place) -> None:
        """Counts the next record, which is left out for the sake of another one."""
        self._count_file(place.file, is_kept=False)
        self._count_left_out(reason, place, beside)

    def result(self, records: RecordFiles, labels: RowArray, is_kept: npt.NDArray[np.bool_]) -> Statistics:
        """Returns what was counted.

        Args:
            records: all that were counted, in the same order.
            labels: (num_records,) the cluster of each.
            is_kept: (num_records,) whether each is in a split.
        """
        groups = groups_of_labels(labels)
        return Statistics(
            files=self._origins_of_files(),
            sources=_origins_of_sources(is_kept, records),
            left_out=tuple(sorted(self._left_out.values(), key=lambda one: (-one.num_records, one.reason))),
            words={
                split: {part: one.histogram() for part, one in parts.items()} for split, parts in self._words.items()
            },
            quality={split: values.histogram() for split, values in self._quality.items()},
            cluster_classes=_cluster_classes(groups, len(labels)),
            largest_clusters=_largest_clusters(groups, is_kept, records),
            examples=self._examples.chosen(),
        )

    def _count_file(self, file: str, *, is_kept: bool) -> None:
        counts = self._files.setdefault(file, [0, 0])
        counts[0] += 1
        counts[1] += is_kept

    def _count_left_out(self, reason: str, place: Place, beside: Place | None = None) -> None:
        known = self._left_out.get(reason)
        if known is None:
            known = LeftOutRecords(reason, 0, _shown(place), _shown(beside) if beside else "")
        self._left_out[reason] = LeftOutRecords(reason, known.num_records + 1, known.first, known.beside)

    def _origins_of_files(self) -> Origins:
        order = sorted(self._files, key=lambda file: (-self._files[file][0], file))
        largest, others = order[:NUM_FILES], order[NUM_FILES:]
        return Origins(
            tuple(Origin(file, *self._files[file]) for file in largest),
            len(others),
            *(sum(self._files[file][position] for file in others) for position in (0, 1)),
        )


class _Reject(msgspec.Struct):
    file: str
    line: int
    reason: str


_REJECT = msgspec.json.Decoder(_Reject)


class _Values:
    """Numbers that are not negative, in bins."""

    def __init__(self, bin_width: float, num_bins: int) -> None:
        self._bin_width = bin_width
        self._counts = [0] * num_bins
        self._sum, self._largest = 0.0, 0.0

    def add(self, value: float) -> None:
        self._counts[min(bin_of(value, self._bin_width), len(self._counts) - 1)] += 1
        self._sum += value
        if value > self._largest:
            self._largest = value

    def histogram(self) -> Histogram:
        mean = self._sum / max(sum(self._counts), 1)
        # All of them as they are read from the card again, where 25 would be another number than 25.0.
        return Histogram(float(self._bin_width), tuple(self._counts), round(mean, 4), round(float(self._largest), 4))


class _Examples:
    """Some records, whatever their order: those whose titles have the smallest hashes, one for each title."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, StoredRecord]] = []
        self._keys: set[int] = set()

    def offer(self, record: StoredRecord) -> None:
        # The heap has its smallest entry on top, and the largest hash has to go first.
        title = title_of(record.content) if record.output is not None else record.title
        key = -_hash(_SALT + title.encode())
        if key in self._keys:
            return
        if len(self._heap) < NUM_EXAMPLES:
            heappush(self._heap, (key, record))
        elif key > self._heap[0][0]:
            self._keys.remove(heapreplace(self._heap, (key, record))[0])
        else:
            return
        self._keys.add(key)

    def chosen(self) -> tuple[StoredRecord, ...]:
        return tuple(record for _, record in sorted(self._heap, key=lambda entry: -entry[0]))


def bin_of(value: float, bin_width: float) -> int:
    """Returns the number of the bin of a value, counted from 0."""
    # To divide 0.15 by 0.05 gives less than 3.
    return int(value * (1 / bin_width)) if bin_width < 1 else int(value // bin_width)


def _hash(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def _shown(place: Place) -> str:
    return f"{place.file}:{place.line_number}"


def _origins_of_sources(is_kept: npt.NDArray[np.bool_], records: RecordFiles) -> Origins:
    """Counts the sources by their keys, and reads only the names of the largest again."""
    counted = count_sources(records.source_keys, is_kept, NUM_SOURCES)
    texts = records.texts
    names = [source_name(texts.record(one.first).source or "") for one in counted.largest]
    return Origins(
        tuple(
            Origin(in_one_line(redact(name)), one.num_records, one.num_kept)
            for name, one in zip(names, counted.largest, strict=True)
        ),
        counted.num_sources - len(names),
        counted.num_records - sum(one.num_records for one in counted.largest),
        counted.num_kept - sum(one.num_kept for one in counted.largest),
    )


def _cluster_classes(groups: Groups, num_records: int) -> tuple[ClusterClass, ...]:
    num_alone = num_records - len(groups.rows)
    classes = np.searchsorted(CLUSTER_SIZES, groups.sizes, side="right") - 1
    found = [ClusterClass(1, 1, num_alone, num_alone)] if num_alone else []
    for number, smallest in enumerate(CLUSTER_SIZES):
        of_class = groups.sizes[classes == number]
        largest = CLUSTER_SIZES[number + 1] - 1 if number + 1 < len(CLUSTER_SIZES) else None
        if len(of_class):
            found.append(ClusterClass(smallest, largest, len(of_class), int(of_class.sum())))
    return tuple(found)


def _largest_clusters(groups: Groups, is_kept: npt.NDArray[np.bool_], records: RecordFiles) -> tuple[LargeCluster, ...]:
    texts, found = records.texts, []
    for number in np.argsort(-groups.sizes, kind="stable")[:NUM_LARGEST_CLUSTERS].tolist():
        start = int(groups.starts[number])
        members = groups.rows[start : start + int(groups.sizes[number])]
        members = members[np.argsort(~is_kept[members], kind="stable")]
        looked_at = members[:_MEMBERS_LOOKED_AT].tolist()
        titles = dict.fromkeys(in_one_line(title_of(texts.record(number).content)) for number in looked_at)
        found.append(LargeCluster(len(members), int(is_kept[members].sum()), tuple(titles)[:NUM_TITLES]))
    return tuple(found)
