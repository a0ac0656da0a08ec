from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from recipe_exp.metrics import bleu_signature, chrf_signature, compute_metrics, perplexity
from recipe_exp.metrics.text import ROUGE_NAMES, bleu_tokens, distinct, length_ratio, repetition, words

PAIRS = [
    ("Mix the flour and the milk.", "Mix the milk and the flour."),
    ("Fry until golden brown on both sides.", "Fry until golden."),
    ("1. Stir\n2. Bake at 180 °C for 1/2 hour", "1. Stir well\n2. Bake for 1/2 hour"),
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
    ("salt \n pepper\u00a0\u2003 ", "\t salt&amp;pepper\n\n"),
    ("mix salt well " * 100, "well mix the salt " * 80),
]
texts = st.lists(st.sampled_from(["mix", "Mix", "the", "flour", "eggs", "egg", ".", "é", "1/2", "\n"])).map(" ".join)
any_text = texts | st.text(max_size=20)


def check_against_the_oracles(references: list[str], predictions: list[str]) -> None:
    metrics = compute_metrics(references, predictions)
    assert metrics["bleu"] == sacrebleu.corpus_bleu(predictions, [references]).score
    assert metrics["chrf"] == sacrebleu.corpus_chrf(predictions, [references]).score
    scorer = RougeScorer(list(ROUGE_NAMES))
    oracle = [scorer.score(*pair) for pair in zip(references, predictions, strict=True)]
    for name in ROUGE_NAMES:
        assert metrics.per_example(name) == tuple(scores[name].fmeasure for scores in oracle)


@pytest.mark.parametrize(("reference", "prediction"), PAIRS)
def test_scores_of_one_pair_are_the_references_to_the_last_digit(reference: str, prediction: str) -> None:
    check_against_the_oracles([reference], [prediction])


def test_scores_of_a_corpus_are_the_references_to_the_last_digit() -> None:
    references, predictions = map(list, zip(*PAIRS, strict=True))
    check_against_the_oracles(references, predictions)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(any_text, any_text), min_size=1, max_size=4))
def test_scores_of_any_texts_are_the_references_to_the_last_digit(rows: list[tuple[str, str]]) -> None:
    references, predictions = map(list, zip(*rows, strict=True))
    check_against_the_oracles(references, predictions)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(max_codepoint=126) | st.sampled_from("0189.,-&;<>é½\u00a0\n"), max_size=40))
def test_tokens_are_those_of_sacrebleu(text: str) -> None:
    assert bleu_tokens(text) == Tokenizer13a()(text.rstrip()).split()


@pytest.mark.parametrize("text", ["&quot;a&amp;lt;b&gt;", "<skipped> salt-\n pepper-", "1,000.5-6 a.b,c -1 2- '"])
def test_entities_and_breaks_are_read_as_sacrebleu_reads_them(text: str) -> None:
    assert bleu_tokens(text) == Tokenizer13a()(text.rstrip()).split()


def test_signatures_name_what_makes_scores_comparable() -> None:
    assert all(part in bleu_signature() for part in ("nrefs:1", "case:mixed", "tok:13a", "smooth:exp", "version:"))
    assert all(part in chrf_signature() for part in ("nrefs:1", "nc:6", "nw:0", "space:no", "version:"))


def test_perplexity() -> None:
    assert perplexity(0.0) == 1.0
    assert perplexity(math.log(32)) == pytest.approx(32)
    assert perplexity(1e4) == math.inf
    assert perplexity(math.inf) == math.inf
    assert math.isnan(perplexity(math.nan))


def test_repetition_is_the_share_of_4_grams_that_came_before() -> None:
    assert repetition(words("Stir the pot well. Stir the pot well.")) == 1 / 5
    assert repetition(words("stir " * 100)) == pytest.approx(96 / 97)
    assert repetition(words("stir the pot")) == 0.0


def test_distinct_counts_over_all_texts() -> None:
    assert distinct([words("stir the pot"), words("Stir the pan")], 1) == 4 / 6
    assert distinct([words("stir the pot"), words("Stir the pan")], 2) == 3 / 4
    assert distinct([(), ()], 1) == 0.0


def test_length_ratio_is_that_of_the_sums() -> None:
    metrics = compute_metrics(["a b c d", "e f"], ["a b", "c d e f"])
    assert metrics["length_ratio"] == 1.0
    assert metrics.per_example("length_ratio") == (0.5, 2.0)
    assert length_ratio((1, 0)) == math.inf
    assert math.isnan(length_ratio((0, 0)))


def test_importing_metrics_is_light() -> None:
    code = """
import sys, time, json
import dataclasses, enum, fractions, functools, html, inspect, math, re, typing, unicodedata, pathlib
start = time.process_time()
import recipe_exp.metrics
seconds = time.process_time() - start
heavy = {"torch", "numpy", "sacrebleu", "rouge_score_rs", "ftfy", "transformers", "omegaconf", "pydantic"}
print(json.dumps([sorted(heavy & set(sys.modules)), seconds]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded, seconds = json.loads(done.stdout)
    assert loaded == []
    assert seconds < 0.2
