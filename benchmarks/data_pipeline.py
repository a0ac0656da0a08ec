"""Measure the way of recipes from a file to tokens: `data_pipeline.py [--rows N ...] [--repetitions N] [--whole]`.

Generated recipes are tokenized by this package and by `datasets.map` with the same fast tokenizer, each in a process of
its own, in turn, on all cores; neither reads from a cache. The columns are rows a second and the largest memory of a
process and all of its children together (proportional set size: shared pages are divided among those who share them),
sampled twenty times a second.

With `--whole`, `task=prepare` is timed as a whole as well: reading, cleaning, quality, near-duplicates, splits and
tokens; and then opened again, warm. Its memory is that of the preparation alone: nothing is sent to a tracker, whose
client is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil
from made_up_recipes import recipe

from recipe_exp.data.tokens.tokenizer import RecipeTokenizer
from recipe_exp.data.tokens.vocabulary import train_unigram
from recipe_exp.recipes.markdown import render_markdown
from recipe_exp.recipes.recipe import Recipe

_VOCABULARY_RECIPES = 20_000
_VOCABULARY_SIZE = 8_000

_OURS = """
import json, sys, time
from pathlib import Path
from recipe_exp.config.data import DataConfig
from recipe_exp.data import build_or_open_cache, open_or_prepare
from recipe_exp.data.tokens.tokenizer import RecipeTokenizer
folder, rows, workers = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
config = DataConfig(format="prepared", path=str(folder / f"prepared-{rows}"))
tokenizer = RecipeTokenizer.from_pretrained(folder / "tokenizer")
cache_dir = Path(sys.argv[4])
open_or_prepare(config, cache_dir=cache_dir, num_workers=workers)
began = time.perf_counter()
build_or_open_cache(config, cache_dir=cache_dir, tokenizer=tokenizer, num_workers=workers)
seconds = time.perf_counter() - began
began = time.perf_counter()
build_or_open_cache(config, cache_dir=cache_dir, tokenizer=tokenizer, num_workers=workers)
print(json.dumps({"seconds": seconds, "warm_seconds": time.perf_counter() - began}))
"""

_DATASETS = """
import json, sys, time
import datasets
from transformers import PreTrainedTokenizerFast
datasets.disable_progress_bars()
folder, rows, workers = sys.argv[1], sys.argv[2], int(sys.argv[3])
tokenizer = PreTrainedTokenizerFast.from_pretrained(f"{folder}/tokenizer")
data = datasets.load_dataset("json", data_files=f"{folder}/texts-{rows}.jsonl", split="train", cache_dir=sys.argv[4])
def encode(batch):
    sources = tokenizer(batch["source"], truncation=True, max_length=256)
    targets = tokenizer(text_target=batch["target"], truncation=True, max_length=512)
    return {"input_ids": sources["input_ids"], "labels": targets["input_ids"]}
began = time.perf_counter()
data.map(encode, batched=True, num_proc=workers, remove_columns=data.column_names, load_from_cache_file=False)
print(json.dumps({"seconds": time.perf_counter() - began}))
"""


@dataclass(frozen=True)
class Measured:
    """What one process took.

    Attributes:
        answer: what it printed.
        seconds: from its start to its end.
        peak_mib: the largest memory of it and its children.
    """

    answer: dict[str, float]
    seconds: float
    peak_mib: float


def made_up(seed: int, row: int) -> Recipe:
    """Return a recipe; every tenth is an edited copy of an earlier one."""
    (title, *lines), _ = recipe(seed, row)
    is_ingredient = [line.startswith("- ") for line in lines]
    ingredients = tuple(line[2:] for line, is_one in zip(lines, is_ingredient, strict=True) if is_one)
    steps = tuple(line for line, is_one in zip(lines, is_ingredient, strict=True) if not is_one)
    return Recipe(title, ingredients, steps)


def make_data(folder: Path, rows: int) -> None:
    """Write the same recipes as prepared splits, as texts for `datasets`, and as a raw file."""
    prepared = folder / f"prepared-{rows}"
    prepared.mkdir()
    template = "Write a recipe for {} using: {}"
    with (
        (folder / f"raw-{rows}.jsonl").open("w", encoding="utf-8") as raw,
        (prepared / "train.jsonl").open("w", encoding="utf-8") as train,
        (folder / f"texts-{rows}.jsonl").open("w", encoding="utf-8") as texts,
    ):
        for row in range(rows):
            one = made_up(0, row)
            record = {"title": one.title, "ingredients": one.ingredients, "instructions": one.instructions}
            raw.write(json.dumps(record) + "\n")
            train.write(json.dumps({**record, "quality_score": 1.0}) + "\n")
            source = template.format(one.title, ", ".join(one.ingredients))
            texts.write(json.dumps({"source": source, "target": render_markdown(one)}) + "\n")
    for name in ("validation.jsonl", "test.jsonl"):
        (prepared / name).touch()


def make_tokenizer(folder: Path) -> None:
    """Train the tokenizer of both."""
    recipes = (made_up(1, row) for row in range(_VOCABULARY_RECIPES))
    texts = (text for one in recipes for text in (one.title, *one.ingredients, *one.instructions))
    RecipeTokenizer.from_tokenizer(train_unigram(texts, _VOCABULARY_SIZE)).save(folder / "tokenizer")


def run(command: list[str]) -> Measured:
    """Run a process to its end and watch its memory."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    peaks = [0.0]
    is_over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(process.pid, peaks, is_over))
    watcher.start()
    output, _ = process.communicate()
    seconds = time.perf_counter() - began
    is_over.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{command[:4]} ended with {process.returncode}")
    last = output.splitlines()[-1] if output.strip() else ""
    return Measured(json.loads(last) if last.startswith("{") else {}, seconds, max(peaks))


def _watch(process_id: int, peaks: list[float], is_over: threading.Event) -> None:
    while not is_over.wait(0.05):
        total = 0
        try:
            root = psutil.Process(process_id)
            for process in (root, *root.children(recursive=True)):
                total += process.memory_full_info().pss
        except psutil.Error:
            continue
        peaks.append(total / 2**20)


def tokenize(folder: Path, rows: int, num_workers: int, repetitions: int) -> None:
    """Print both ways side by side."""
    found: dict[str, list[Measured]] = {"recipe_exp": [], "datasets.map": []}
    for number in range(repetitions):
        for name, script in (("recipe_exp", _OURS), ("datasets.map", _DATASETS)):
            with tempfile.TemporaryDirectory(dir=folder) as cache_dir:
                arguments = [str(folder), str(rows), str(num_workers), cache_dir]
                found[name].append(run([sys.executable, "-c", script, *arguments]))
        ours, theirs = (each[number].answer["seconds"] for each in found.values())
        print(f"  {rows:,} rows, round {number + 1}: {ours:.1f} s against {theirs:.1f} s", flush=True)
    for name, measured in found.items():
        rate = rows / median(each.answer["seconds"] for each in measured)
        print(f"{name:<14}{rows:>11,}{rate:>12,.0f} rows/s{median(each.peak_mib for each in measured):>9,.0f} MiB")
    pairs = zip(*found.values(), strict=True)
    ratios = [theirs.answer["seconds"] / ours.answer["seconds"] for ours, theirs in pairs]
    warm = median(each.answer["warm_seconds"] for each in found["recipe_exp"])
    print(f"ratio {median(ratios):.2f}; opened warm in {1e3 * warm:.1f} ms", flush=True)


def prepare(folder: Path, rows: int, num_workers: int) -> None:
    """Print what the whole of `task=prepare` takes."""
    raw = folder / f"raw-{rows}.jsonl"
    command = [
        *(sys.executable, "-m", "recipe_exp", "task=prepare", "data=jsonl", f"data.path={raw}"),
        *(f"output_dir={folder / 'outputs'}", f"model.shape.vocab_size={_VOCABULARY_SIZE}"),
        *("hardware=cpu", f"hardware.num_workers={num_workers}", "tracking=journal_only"),
    ]
    for name in ("task=prepare", "again, warm"):
        measured = run(command)
        rate = rows / measured.seconds
        print(f"{name:<14}{rows:>11,}{rate:>12,.0f} rows/s{measured.peak_mib:>9,.0f} MiB{measured.seconds:>9.1f} s")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000], help="generated recipes")
    parser.add_argument("--repetitions", type=int, default=3, help="processes of each kind")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="cores")
    parser.add_argument("--whole", action="store_true", help="time task=prepare as a whole too")
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder by default")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="data_pipeline-", dir=parsed.folder) as name:
        folder = Path(name)
        make_tokenizer(folder)
        for rows in parsed.rows:
            make_data(folder, rows)
            if parsed.repetitions:
                tokenize(folder, rows, parsed.workers, parsed.repetitions)
            if parsed.whole:
                prepare(folder, rows, parsed.workers)


if __name__ == "__main__":
    main()
