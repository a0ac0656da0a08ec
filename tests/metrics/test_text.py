from __future__ import annotations

import math
import subprocess
import sys

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from recipe_exp.metrics import (
    BleuStatistics,
    bleu,
    bleu_signature,
    bleu_statistics,
    perplexity,
    rouge,
    rouge_scores,
)

PAIRS = [
    ("Mix the flour and the milk.", "Mix the milk and the flour."),
    ("Fry until golden brown on both sides.", "Fry until golden."),
    ("1. Stir\n2. Bake at 180 °C for 1/2 hour", "1. Stir well\n2. Bake for 1/2 hour"),
]
ODD_PAIRS = [
    ("", ""),
    ("", "salt"),
    ("salt", ""),
    ("salt", "salt"),
    ("salt", "pepper"),
    ("crème brûlée", "creme brulee"),
    ("塩 を 入れる", "塩 を 入れる"),
    ("½ cup", "½ cup"),
    ("...", "!!!"),
    ("a a a a b", "a b a"),
]
texts = st.lists(st.sampled_from(["mix", "Mix", "the", "flour", "eggs", "egg", ".", "é", "1/2", "\n"])).map(" ".join)
pairs = st.tuples(texts, texts)


def test_bleu_is_sacrebleus_corpus_bleu() -> None:
    references, predictions = zip(*PAIRS, strict=True)
    expected = sacrebleu.corpus_bleu(list(predictions), [list(references)])
    assert bleu(references, predictions) == pytest.approx(expected.score, abs=1e-12)
    assert 0 < expected.score < 100


def test_bleu_of_the_reference_is_100_and_of_nothing_0() -> None:
    references = [reference for reference, _ in PAIRS]
    assert bleu(references, references) == 100.0
    assert bleu(references, [""] * len(references)) == 0.0
    assert bleu([""], [""]) == 0.0


def test_bleu_signature_names_what_makes_scores_comparable() -> None:
    signature = bleu_signature()
    assert all(part in signature for part in ("nrefs:1", "case:mixed", "tok:13a", "smooth:exp", "version:"))


@settings(max_examples=40, deadline=None)
@given(st.lists(pairs, min_size=2, max_size=6), st.data())
def test_bleu_statistics_of_parts_add_up_to_the_whole(rows: list[tuple[str, str]], data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, len(rows) - 1))
    references, predictions = [row[0] for row in rows], [row[1] for row in rows]
    parts = bleu_statistics(references[:cut], predictions[:cut]) + bleu_statistics(references[cut:], predictions[cut:])
    assert parts == bleu_statistics(references, predictions)
    assert parts.score() == bleu(references, predictions)
    assert parts + BleuStatistics() == parts


@pytest.mark.parametrize(("reference", "prediction"), PAIRS + ODD_PAIRS)
def test_rouge_is_rouge_scores(reference: str, prediction: str) -> None:
    oracle = RougeScorer(["rouge1", "rouge2", "rougeL"]).score(reference, prediction)
    expected = {name: score.fmeasure for name, score in oracle.items()}
    assert rouge_scores([reference], [prediction]) == [pytest.approx(expected, abs=1e-12)]


@settings(max_examples=60, deadline=None)
@given(texts | st.text(max_size=20), texts | st.text(max_size=20))
def test_rouge_is_rouge_scores_on_any_text(reference: str, prediction: str) -> None:
    test_rouge_is_rouge_scores(reference, prediction)


def test_rouge_is_the_mean_over_pairs() -> None:
    references, predictions = ["salt", "mix the flour"], ["salt", "bake a cake"]
    assert rouge(references, predictions) == {"rouge1": 0.5, "rouge2": 0.0, "rougeL": 0.5}


@pytest.mark.parametrize("metric", [bleu, bleu_statistics, rouge, rouge_scores])
@pytest.mark.parametrize(
    ("references", "predictions", "message"),
    [
        ([], [], "no predictions"),
        (["a"], [], "1 references but 0 predictions"),
        ("ab", ["a", "b"], "references is one string"),
    ],
)
def test_inputs_that_cannot_be_compared_are_refused(
    metric: object, references: list[str], predictions: list[str], message: str
) -> None:
    assert callable(metric)
    with pytest.raises(ValueError, match=message):
        metric(references, predictions)


def test_perplexity() -> None:
    assert perplexity(0.0) == 1.0
    assert perplexity(math.log(32)) == pytest.approx(32)
    assert perplexity(1e4) == math.inf
    assert perplexity(math.inf) == math.inf
    assert math.isnan(perplexity(math.nan))


def test_importing_metrics_is_light() -> None:
    code = """
import sys, time
import dataclasses, enum, fractions, html, math, re, typing, unicodedata
start = time.process_time()
import recipe_exp.metrics
seconds = time.process_time() - start
heavy = {"torch", "numpy", "sacrebleu", "rouge_score_rs", "ftfy", "transformers", "omegaconf", "pydantic"}
print(sorted(heavy & set(sys.modules)), file=sys.stderr)
sys.exit(bool(heavy & set(sys.modules)) or seconds > 0.1)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
