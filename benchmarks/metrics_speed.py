"""Measure how long all metrics of 1,000 predictions take, and that text metrics equal their references.

`metrics_speed.py --recipes FILE [--check]`: FILE holds one recipe a line (`title`, `ingredients`, `instructions`).
Metrics learn from the recipes behind the first 1,000; each of these is the reference, and its prediction is the recipe
spoilt in one of the ways of `recipe_exp.metrics.corruptions`. Processes share the predictions, and their parts are
merged. With `--check` BLEU, chrF and ROUGE of all pairs and of edge cases are compared with sacreBLEU and rouge_score,
to the last digit (minutes).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import reduce
from itertools import cycle
from operator import add
from pathlib import Path
from tempfile import TemporaryDirectory

import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from recipe_exp.metrics import Knowledge, MetricAccumulator, accumulate, compute_metrics
from recipe_exp.metrics.corruptions import CORRUPTIONS
from recipe_exp.metrics.text import ROUGE_NAMES
from recipe_exp.recipes import Recipe, render_markdown

NUM_PREDICTIONS = 1000
EDGE_CASES = [
    ("", ""),
    ("", "salt"),
    ("salt", ""),
    ("salt", "salt"),
    ("salt", "pepper"),
    ("crème brûlée für zwölf", "creme brulee fur zwolf"),
    ("塩 を 入れる", "塩 を 入れ"),
    ("½ cup\u00a0milk", "1/2 cup milk"),
    ("...", "!!!"),
    ("\n\n", " \t"),
    ("mix salt well " * 1000, "well mix the salt " * 750),
]


def read_recipes(path: Path) -> list[Recipe]:
    """Return the recipes of a JSONL file."""
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file if line.strip()]
    return [Recipe(row["title"], tuple(row["ingredients"]), tuple(row["instructions"])) for row in rows]


def predictions_of(recipes: Sequence[Recipe]) -> list[str]:
    """Return each recipe spoilt, in turn in every way."""
    donors = [*recipes[1:], recipes[0]]
    ways = cycle(CORRUPTIONS.values())
    rows = zip(recipes, donors, ways, strict=False)
    return [way(recipe, donor, seed=0) or render_markdown(recipe) for recipe, donor, way in rows]


def score_part(references: list[str], predictions: list[str], prompts: list[str], knowledge: str) -> MetricAccumulator:
    """Return the accumulator of one process's share."""
    return accumulate(references, predictions, prompts=prompts, knowledge=Knowledge.load(knowledge))


def measure(texts: Sequence[list[str]], knowledge: str, num_processes: int) -> tuple[float, float, MetricAccumulator]:
    """Return seconds by the clock and of the processors, start of processes and loading included, and merged parts."""
    start, used = time.perf_counter(), sum(os.times()[:4])
    with ProcessPoolExecutor(num_processes) as pool:
        parts = [
            pool.submit(score_part, *(column[i::num_processes] for column in texts), knowledge)
            for i in range(num_processes)
        ]
        merged = reduce(add, (part.result() for part in parts))
    merged.compute(loss=1.0)
    return time.perf_counter() - start, sum(os.times()[:4]) - used, merged


def check(references: list[str], predictions: list[str]) -> None:
    """Compare every pair and the corpus with the reference implementations, and fail at the first difference."""
    metrics = compute_metrics(references, predictions)
    assert metrics["bleu"] == sacrebleu.corpus_bleu(predictions, [references]).score
    assert metrics["chrf"] == sacrebleu.corpus_chrf(predictions, [references]).score
    scorer = RougeScorer(list(ROUGE_NAMES))
    for index, (reference, prediction) in enumerate(zip(references, predictions, strict=True)):
        expected = scorer.score(reference, prediction)
        for name in ROUGE_NAMES:
            assert metrics.per_example(name)[index] == expected[name].fmeasure, (index, name)


def main() -> None:
    """Print one line a measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", type=Path, required=True, help="JSONL file with recipes")
    parser.add_argument("--check", action="store_true", help="compare with sacreBLEU and rouge_score too")
    arguments = parser.parse_args()
    recipes = read_recipes(arguments.recipes)
    evaluated, training = recipes[:NUM_PREDICTIONS], recipes[NUM_PREDICTIONS:]
    references = [render_markdown(recipe) for recipe in evaluated]
    predictions = predictions_of(evaluated)
    if arguments.check:
        check(references, predictions)
        check(*map(list, zip(*EDGE_CASES, strict=True)))
        for pair in EDGE_CASES:
            check(*([text] for text in pair))
        print(f"equal to sacreBLEU and rouge_score: {len(references)} pairs and {len(EDGE_CASES)} edge cases")
        return
    prompts = [f"Write a recipe for {recipe.title} using: {', '.join(recipe.ingredients)}" for recipe in evaluated]
    with TemporaryDirectory() as folder:
        path = f"{folder}/knowledge.json"
        start = time.perf_counter()
        Knowledge.fit(training).save(path)
        print(f"learnt from {len(training):,} recipes in {time.perf_counter() - start:.1f} s")
        for num_processes in (1, 2):
            seconds, used, merged = measure((references, predictions, prompts), path, num_processes)
            num_metrics = len(merged.compute(loss=1.0).to_dict())
            print(
                f"{num_metrics} metrics of {len(references):,} predictions, {num_processes} processes: "
                f"{seconds:.1f} s, {used:.1f} s of processors"
            )


if __name__ == "__main__":
    main()
