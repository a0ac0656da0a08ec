"""From rows to prepared data: intake, duplicates, splits and the card, in a folder aside that a kill does not lose."""

from __future__ import annotations

import logging
import shutil
from array import array
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from recipe_exp.config.data import DataConfig
from recipe_exp.data.card_file import Identity, fingerprint_of, hashes_of, publish, sizes_of
from recipe_exp.data.contents import Contents
from recipe_exp.data.duplicates.choice import Ranking, choose
from recipe_exp.data.duplicates.closest import SimilarPair
from recipe_exp.data.duplicates.clusters import Clusters, find_clusters
from recipe_exp.data.duplicates.forest import RowArray, groups_of_labels
from recipe_exp.data.preparation.corpus_report import REJECTS_FILE, ClosePair, CorpusReport
from recipe_exp.data.preparation.intake import Place
from recipe_exp.data.preparation.intake_stage import IntakeCounts, reject_line, take_all
from recipe_exp.data.preparation.prepared import DUPLICATES_FILE, PreparedCard, fingerprint_of_splits, split_file
from recipe_exp.data.preparation.record_files import REJECTS, RecordFiles
from recipe_exp.data.preparation.statistics import NEAR_BETTER, NEAR_HELD_OUT, Statistics, StatisticsCounter
from recipe_exp.data.preparation.stored_record import decode_line, title_of
from recipe_exp.data.split import SPLITS
from recipe_exp.errors import DataError

# Part of the address of prepared data: raise it when the same rows would become other splits.
CORPUS_VERSION = 4

Progress: TypeAlias = Callable[[str, int], None]

_WORK_FOLDER = "work"
_PROGRESS_RECORDS = 4096
_NUM_CLOSEST = 10
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparationRequest:
    """What is to be prepared, and how.

    Attributes:
        config: the `data` section.
        contents: the rows.
        identity: everything that decides the splits.
        num_workers: processes that clean.
        progress: called now and then with a stage's name and how many rows or records it has done.
    """

    config: DataConfig
    contents: Contents
    identity: Identity
    num_workers: int
    progress: Progress


def prepare(request: PreparationRequest, folder: Path) -> PreparedCard:
    """Prepares data and returns its card; the folder appears as a whole or not at all.

    The caller sees to it that no other process does the same. What a killed process did is gone on with.

    Raises:
        DataError: the data cannot be read, or too much of it was rejected.
    """
    building = folder.with_name(f"{folder.name}.building")
    work = building / _WORK_FOLDER
    if work.exists():
        _LOGGER.info("%s: left behind by a preparation that did not end; it goes on from there", building)
    if folder.exists():
        _LOGGER.warning("%s: this prepared data is damaged and is made again", folder)
    config = request.config
    counts = take_all(
        config, request.contents, work, request.num_workers, lambda count: request.progress("reading", count)
    )
    _refuse_bad_corpus(counts, config, work)
    records = RecordFiles(work)
    clusters = find_clusters(records.rows, lambda done, _: request.progress("looking for duplicates", done))
    kept = _kept(records, clusters, request)
    statistics = _write_splits(request, records, clusters.labels, kept, building)
    names = [*map(split_file, SPLITS), REJECTS_FILE]
    if config.duplicates == "report":
        _write_clusters(records, clusters.labels, kept, building / DUPLICATES_FILE)
        names.append(DUPLICATES_FILE)
    hashes = hashes_of(building, names)
    card = PreparedCard(
        fingerprint=fingerprint_of(request.identity),
        identity=request.identity,
        data_fingerprint=fingerprint_of_splits({split: hashes[split_file(split)] for split in SPLITS}),
        report=_report(counts, records, clusters, kept),
        statistics=statistics,
        file_bytes=sizes_of(building, hashes),
        file_hashes=hashes,
    )
    shutil.rmtree(work)
    publish(building, card, folder)
    building.with_suffix(f".{REJECTS_FILE}").unlink(missing_ok=True)
    return card


def _refuse_bad_corpus(counts: IntakeCounts, config: DataConfig, work: Path) -> None:
    report = counts.report({"train": counts.num_records, "validation": 0, "test": 0})
    try:
        report.check(config.max_rejected_fraction)
    except DataError as error:
        building = work.parent
        kept = building.with_suffix(f".{REJECTS_FILE}")
        shutil.copyfile(work / REJECTS, kept)
        # Files that are put right are other files, and a larger share that is tolerated costs one more reading.
        shutil.rmtree(building)
        rest = "" if counts.is_complete else "; what follows them was not read"
        look = f"; see {kept}" if report.rejected else ""
        raise DataError(f"{error}{rest}{look}") from None


@dataclass(frozen=True)
class _Kept:
    """Which records stay.

    Attributes:
        is_kept: (num_records,) bool.
        is_leak: (num_records,) bool, those of the training split that are near one that is held out.
        stays_for: (num_records,) the record that stays and is near this one; its own number if it stays itself.
        closest: the most similar pairs across the split of which both stay, the most similar first.
    """

    is_kept: npt.NDArray[np.bool_]
    is_leak: npt.NDArray[np.bool_]
    stays_for: RowArray
    closest: tuple[SimilarPair, ...]


def _kept(records: RecordFiles, clusters: Clusters, request: PreparationRequest) -> _Kept:
    """Decides what stays: training keeps nothing near a held-out recipe, and `drop` one of several near ones."""
    is_held_out = records.is_held_out
    choice = choose(
        clusters.labels,
        Ranking(is_held_out, records.scores),
        records.texts,
        records.keys.band(0),
        lambda done: request.progress("choosing among duplicates", done),
        is_one_kept=request.config.duplicates == "drop",
    )
    is_kept = choice.stays_for == np.arange(len(records), dtype=np.int32)
    is_leak = is_held_out[choice.stays_for] & ~is_held_out
    pairs = sorted((*clusters.closest_across_split, *choice.closest_across_split), key=lambda one: -one.similarity)
    closest = tuple(pair for pair in pairs if is_kept[pair.first] and is_kept[pair.second])
    return _Kept(is_kept, is_leak, choice.stays_for, closest[:_NUM_CLOSEST])


def _write_splits(
    request: PreparationRequest, records: RecordFiles, labels: RowArray, kept: _Kept, building: Path
) -> Statistics:
    """Writes the splits and the list of what is left out, in the order of the records."""
    places = _Places(records, np.unique(kept.stays_for[~kept.is_kept]))
    statistics = StatisticsCounter()
    shutil.copyfile(building / _WORK_FOLDER / REJECTS, building / REJECTS_FILE)
    statistics.count_rejects(building / REJECTS_FILE)
    with ExitStack() as stack:
        files = [stack.enter_context((building / split_file(split)).open("wb")) for split in SPLITS]
        rejects = stack.enter_context((building / REJECTS_FILE).open("ab"))
        for number, (line, place) in enumerate(zip(records.lines(), records.places(), strict=True)):
            if kept.is_kept[number]:
                files[records.splits[number]].write(b'%s,"cluster":%d}\n' % (line[:-2], labels[number]))
                statistics.keep(records.split(number), decode_line(line), place)
            else:
                other = places.of(int(kept.stays_for[number]))
                near = NEAR_HELD_OUT if kept.is_leak[number] else NEAR_BETTER
                rejects.write(reject_line(place, f"{near} of {other.file}:{other.line_number}"))
                statistics.leave_out(place, near, other)
            if number % _PROGRESS_RECORDS == 0:
                request.progress("writing", number)
    return statistics.result(records, labels, kept.is_kept)


def _report(counts: IntakeCounts, records: RecordFiles, clusters: Clusters, kept: _Kept) -> CorpusReport:
    num_examples = np.bincount(records.splits[kept.is_kept], minlength=len(SPLITS)).tolist()
    groups = groups_of_labels(clusters.labels)
    return replace(
        counts.report(dict(zip(SPLITS, num_examples, strict=True))),
        num_duplicates=int((~kept.is_kept & ~kept.is_leak).sum()),
        num_leaks=int((~kept.is_kept & kept.is_leak).sum()),
        num_clusters=len(groups),
        num_in_clusters=len(groups.rows),
        closest=_closest(records, kept),
    )


def _write_clusters(records: RecordFiles, labels: RowArray, kept: _Kept, path: Path) -> None:
    """Lists the records that are the same as another one or nearly so, with the number of their cluster."""
    is_one_of_several = np.zeros(len(labels), dtype=np.bool_)
    is_one_of_several[groups_of_labels(labels).rows] = True
    with path.open("wb") as file:
        for number, place in enumerate(records.places()):
            if is_one_of_several[number]:
                entry = {
                    "cluster": int(labels[number]),
                    "file": place.file,
                    "line": place.line_number,
                    "split": records.split(number) if kept.is_kept[number] else None,
                }
                file.write(msgspec.json.encode(entry) + b"\n")


class _Places:
    """Where some records stood, in a few bytes for each.

    Args:
        records: all of them.
        numbers: which ones, in order.
    """

    def __init__(self, records: RecordFiles, numbers: RowArray) -> None:
        self._numbers = numbers
        self._files: dict[str, int] = {}
        self._file_numbers, self._lines = array("I"), array("Q")
        wanted = iter(numbers.tolist())
        next_one = next(wanted, None)
        for number, place in enumerate(records.places() if len(numbers) else ()):
            if number == next_one:
                self._file_numbers.append(self._files.setdefault(place.file, len(self._files)))
                self._lines.append(place.line_number)
                next_one = next(wanted, None)
        self._names = list(self._files)

    def of(self, number: int) -> Place:
        """Returns where one of them stood."""
        position = int(np.searchsorted(self._numbers, number))
        return Place(self._names[self._file_numbers[position]], self._lines[position])


def _closest(records: RecordFiles, kept: _Kept) -> tuple[ClosePair, ...]:
    texts, is_held_out = records.texts, records.is_held_out
    found = []
    for first, second, similarity in kept.closest:
        held_out, training = (first, second) if is_held_out[first] else (second, first)
        titles = (title_of(texts.record(number).content) for number in (held_out, training))
        found.append(ClosePair(round(similarity, 4), *titles))
    return tuple(found)
