"""Measure the search for near-duplicates: `near_duplicates.py [--rows N] [--seed S] [--file FILE | --sample]`.

The recipes are made up, of 120 to 150 words; every tenth is an edited copy of an earlier one: words replaced,
ingredients reordered, or in capitals. Every stage is a process of its own, so that its peak memory is its own. Pairs of
known similarity are those of a copy and its original, and all pairs of the first recipes, compared by brute force. With
`--file` the recipes are those of a JSONL file (`title`, `ingredients`, `instructions`), with `--sample` those of the
package's own grammar, of which most are candidates of many others; no copies are known then.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from made_up_recipes import recipe

from recipe_exp.data.duplicates.choice import Choice, Ranking, choose
from recipe_exp.data.duplicates.clusters import Clusters, find_clusters
from recipe_exp.data.duplicates.comparison import Rows
from recipe_exp.data.duplicates.forest import RowArray
from recipe_exp.data.duplicates.key_file import KeyFile
from recipe_exp.data.duplicates.shingles import jaccard, shingle_sets
from recipe_exp.data.duplicates.signatures import signatures
from recipe_exp.data.duplicates.sketches import SKETCH_WORDS, sketches
from recipe_exp.data.sample import sample_recipes
from recipe_exp.recipes.recipe import Recipe

BOUNDS = (0.7, 0.75, 0.8, 0.85, 0.9, 1.01)
SHARE_HELD_OUT = 0.1
CHUNK_ROWS = 2048
MAX_KNOWN_PAIRS = 50_000
BRUTE_FORCE_ROWS = 10_000
BRUTE_FORCE_SAMPLE_ROWS = 2_000


class StoredTexts(Sequence[str]):
    """Texts in one file, read when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self._descriptor = os.open(folder / "texts", os.O_RDONLY)
        self._ends = np.fromfile(folder / "ends", dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        start = int(self._ends[index - 1]) if index else 0
        return os.pread(self._descriptor, int(self._ends[index]) - start, start).decode()


def made_up(num_rows: int, seed: int) -> Iterator[str]:
    return ("\n".join(recipe(seed, row)[0]) for row in range(num_rows))


def read_file(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            yield "\n".join([record["title"], *record["ingredients"], *record["instructions"]])


def text_of(one: Recipe) -> str:
    return "\n".join((one.title, *one.ingredients, *one.instructions))


def store(texts: Iterator[str], folder: Path) -> None:
    ends, end = [], 0
    with (folder / "texts").open("wb") as file:
        for text in texts:
            end += file.write(text.encode())
            ends.append(end)
    np.array(ends, dtype=np.int64).tofile(folder / "ends")
    np.arange(len(ends), dtype=np.uint64).tofile(folder / "rows")


def write_keys(folder: Path) -> None:
    texts = StoredTexts(folder)
    with (folder / "keys").open("wb") as keys, (folder / "sketches").open("wb") as sketched:
        for start in range(0, len(texts), CHUNK_ROWS):
            sets = shingle_sets(texts[start : start + CHUNK_ROWS])
            keys.write(signatures(sets).tobytes())
            sketched.write(sketches(sets).tobytes())


def cluster(folder: Path) -> Clusters:
    texts = StoredTexts(folder)
    # Rows are their own exact keys, so that every duplicate has to be found.
    rows = Rows(
        texts=texts,
        keys=KeyFile(folder / "keys"),
        sketches=KeyFile(folder / "sketches", num_bands=SKETCH_WORDS),
        exact_keys=KeyFile(folder / "rows", num_bands=1),
        is_held_out=held_out(len(texts)),
    )
    return find_clusters(rows, progress=lambda _done, _total: None)


def choose_rows(folder: Path, labels: RowArray) -> Choice:
    texts = StoredTexts(folder)
    num_rows = len(texts)
    ranking = Ranking(held_out(num_rows), np.ones(num_rows, dtype=np.float32))
    rows = np.arange(num_rows, dtype=np.uint64)
    return choose(labels, ranking, texts, rows, lambda _done: None, is_one_kept=True)


def nothing(folder: Path) -> None:
    StoredTexts(folder)


def held_out(num_rows: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.random.default_rng(1).random(num_rows) < SHARE_HELD_OUT


def known_pairs(num_rows: int, seed: int) -> Iterator[tuple[int, int]]:
    """Yields copies and their originals, of rows all over the corpus."""
    rows = list(range(num_rows))
    random.Random(seed).shuffle(rows)
    found = ((original, row) for row in rows if (original := recipe(seed, row)[1]) is not None)
    return (pair for _, pair in zip(range(MAX_KNOWN_PAIRS), found, strict=False))


def all_pairs(texts: Sequence[str]) -> Iterator[tuple[int, int, float]]:
    """Yields every pair with a similarity of at least the lowest bound, found through a list of rows per shingle."""
    rows_of: defaultdict[int, list[int]] = defaultdict(list)
    sets = [one.tolist() for one in shingle_sets(texts)]
    for row, shingles in enumerate(sets):
        shared = Counter(other for shingle in shingles for other in rows_of[shingle])
        for other, count in shared.items():
            value = count / (len(shingles) + len(sets[other]) - count)
            if value >= BOUNDS[0]:
                yield other, row, value
        for shingle in shingles:
            rows_of[shingle].append(row)


def print_recall(title: str, pairs: Sequence[tuple[int, int, float]], labels: Sequence[int]) -> None:
    print(f"\n{title}\n| Jaccard | pairs | found | share |\n|---|---|---|---|")
    for low, high in pairwise(BOUNDS):
        chosen = [(first, second) for first, second, value in pairs if low <= value < high]
        found = sum(labels[first] == labels[second] for first, second in chosen)
        print(f"| {low} - {min(high, 1)} | {len(chosen):,} | {found:,} | {found / max(len(chosen), 1):.4f} |")
    near = [labels[first] == labels[second] for first, second, value in pairs if value >= 0.8]
    print(f"recall at J >= 0.8: {sum(near) / max(len(near), 1):.5f} of {len(near):,} pairs")


def print_precision(stays_for: Sequence[int], texts: Sequence[str]) -> None:
    left_out = [(row, other) for row, other in enumerate(stays_for) if row != other]
    checked = left_out[:MAX_KNOWN_PAIRS]
    near = sum(stays_for[other] == other and jaccard(texts[row], texts[other]) >= 0.8 for row, other in checked)
    print(f"\nprecision: {near / max(len(checked), 1):.5f} of {len(checked):,} rows left out are near one that stays")


def print_counts(result: Clusters) -> None:
    sizes = Counter(Counter(result.labels.tolist()).values())
    num_dropped = sum((size - 1) * count for size, count in sizes.items())
    print(f"\nclusters by size: {dict(sorted(sizes.items()))}; rows that repeat another: {num_dropped:,}")
    print(f"pairs compared {result.num_compared_pairs:,}, of them near {result.num_near_pairs:,}")
    shown = ", ".join(f"{pair.similarity:.3f}" for pair in result.closest_across_split[:10])
    print(f"highest similarities left across the split: {shown or 'none'}")


def staged(stage: Callable[..., Any], *arguments: Any) -> Any:
    """Runs a stage in a process of its own and prints what it took."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        result, wall, cpu, mib = pool.apply(_measured, (stage, *arguments))
    num_rows = len(StoredTexts(arguments[0]))
    print(f"| {stage.__name__} | {wall:.1f} | {cpu:.1f} | {num_rows / wall:,.0f} | {mib:.0f} |")
    return result


def _measured(stage: Callable[..., Any], *arguments: Any) -> tuple[Any, float, float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = stage(*arguments)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    # What getrusage says of the peak begins with that of the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return result, wall, cpu, int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main() -> None:
    """Print the stages' costs, then how much was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--file", type=Path, help="JSONL file of recipes, instead of made-up ones")
    parser.add_argument(
        "--sample", action="store_true", help="recipes of the package's grammar, instead of made-up ones"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.sample:
            store((text_of(one) for one in islice(sample_recipes(), arguments.rows)), folder)
        else:
            store(read_file(arguments.file) if arguments.file else made_up(arguments.rows, arguments.seed), folder)
        texts = StoredTexts(folder)
        print(f"{len(texts):,} recipes\n| stage | seconds | CPU seconds | rows/s | peak MiB |\n|---|---|---|---|---|")
        staged(nothing, folder)
        staged(write_keys, folder)
        result = staged(cluster, folder)
        print_counts(result)
        labels = result.labels.tolist()
        stays_for = staged(choose_rows, folder, result.labels).stays_for.tolist()
        if not (arguments.file or arguments.sample):
            known = [(a, b, jaccard(texts[a], texts[b])) for a, b in known_pairs(len(texts), arguments.seed)]
            print_recall("copies and their originals", known, labels)
        num_compared = BRUTE_FORCE_SAMPLE_ROWS if arguments.sample else BRUTE_FORCE_ROWS
        compared = list(all_pairs(texts[:num_compared]))
        print_recall(f"all pairs of the first {num_compared:,} recipes", compared, labels)
        is_held_out = held_out(len(texts))
        left = [
            value
            for a, b, value in compared
            if value >= 0.8 and is_held_out[a] != is_held_out[b] and {stays_for[a], stays_for[b]} == {a, b}
        ]
        print(f"pairs at J >= 0.8 left across the split: {len(left)}")
        print_precision(stays_for, texts)


if __name__ == "__main__":
    main()
