"""Metrics that compare generated text with reference text, and those of the text's surface.

Each gives an example's sufficient statistics, and the metric of any set of examples from their sums. sacreBLEU, numpy
and rouge_score_rs are imported on first use, so that importing this module costs nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from recipe_exp.metrics.metric import Sums
from recipe_exp.metrics.ngrams import ngram_overlaps

BLEU_ORDER = 4
CHRF_ORDER = 6
CHRF_BETA = 2
ROUGE_NAMES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
REPETITION_ORDER = 4

_WORD = re.compile(r"\w+")
_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
# All of ASCII's marks but the apostrophe, comma, dash and point.
_MARKS_ALONE = {ord(mark): f" {mark} " for mark in '!"#$%&()*+/:;<=>?@[\\]^_`{|}~'}
_POINTS_AND_DASHES = (
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)


def bleu_statistics(reference: str, prediction: str) -> tuple[int, ...]:
    """Return clipped n-gram matches for n = 1..4, n-grams of the prediction for n = 1..4, and both lengths in tokens.

    Tokens are those of sacreBLEU's tokenizer 13a.
    """
    tokens, reference_tokens = bleu_tokens(prediction), bleu_tokens(reference)
    overlaps = ngram_overlaps(tokens, reference_tokens, BLEU_ORDER)
    matches, totals, _ = zip(*overlaps, strict=True)
    return (*matches, *totals, len(tokens), len(reference_tokens))


def bleu_tokens(text: str) -> list[str]:
    """Return the tokens of mteval-v13a as sacreBLEU's tokenizer 13a gives them, in a third of its time.

    Most marks stand alone, points and commas unless between digits, a dash after a digit.
    """
    line = text.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    if "&" in line:
        for entity, character in _ENTITIES:
            line = line.replace(entity, character)
    line = f" {line} ".translate(_MARKS_ALONE)
    for pattern, apart in _POINTS_AND_DASHES:
        line = pattern.sub(apart, line)
    return line.split()


def bleu(sums: Sums) -> float:
    """Return corpus BLEU (Papineni et al., 2002) as sacreBLEU defines it (Post, 2018; see `bleu_signature`).

    Geometric mean of the precisions of 1- to 4-grams, times a penalty for predictions shorter than the references. Of
    one example it is smoothed sentence BLEU. Blind to order beyond four words; prefers copying the prompt.
    """
    from sacrebleu.metrics.bleu import BLEU

    counts = [int(count) for count in sums]
    result = BLEU.compute_bleu(
        correct=counts[:BLEU_ORDER],
        total=counts[BLEU_ORDER : 2 * BLEU_ORDER],
        sys_len=counts[-2],
        ref_len=counts[-1],
        smooth_method="exp",
    )
    return float(result.score)


@lru_cache(maxsize=1)
def bleu_signature() -> str:
    """Return sacreBLEU's signature of `bleu`: what makes a score comparable with another paper's."""
    return _signature("BLEU")


def chrf_statistics(reference: str, prediction: str) -> tuple[int, ...]:
    """Return for n = 1..6 the character n-grams of the prediction, of the reference, and of both; spaces left out.

    An order of which the reference has no n-gram counts none of the prediction's either, as in sacreBLEU.
    """
    overlaps = ngram_overlaps("".join(prediction.split()), "".join(reference.split()), CHRF_ORDER)
    return tuple(
        count for common, predicted, expected in overlaps for count in (predicted if expected else 0, expected, common)
    )


def chrf(sums: Sums) -> float:
    """Return corpus chrF2 (Popović, 2015) as sacreBLEU defines it (see `chrf_signature`).

    F-score, recall weighing twice, of the mean precision and recall of 1- to 6-grams of characters. Kinder to other
    forms of a word than BLEU; as blind to the order of sentences.
    """
    precision = recall = 0.0
    num_orders = 0
    for start in range(0, 3 * CHRF_ORDER, 3):
        predicted, expected, common = sums[start : start + 3]
        if predicted > 0 and expected > 0:
            precision += common / predicted
            recall += common / expected
            num_orders += 1
    if precision + recall == 0:
        return 0.0
    precision, recall = precision / num_orders, recall / num_orders
    factor = CHRF_BETA**2
    # In sacreBLEU's order of operations, so that the last digit is the same.
    score = (1 + factor) * precision * recall
    score /= (factor * precision) + recall
    return 100 * score


@lru_cache(maxsize=1)
def chrf_signature() -> str:
    """Return sacreBLEU's signature of `chrf`."""
    return _signature("CHRF")


def rouge_scores(reference: str, prediction: str) -> dict[str, float]:
    """Return the F-measures in [0, 1] under `rouge1`, `rouge2`, `rougeL` and `rougeLsum` (Lin, 2004).

    Tokens are runs of `a-z0-9` of the lower-cased text, without stemming, as in the package rouge_score with its
    defaults. So text without such characters scores 0, and accented letters split words. `rougeLsum` takes lines for
    sentences.
    """
    scores = _rouge_scorer().score(reference, prediction)
    return {name: float(scores[name].fmeasure) for name in ROUGE_NAMES}


def words(text: str) -> tuple[str, ...]:
    """Return the words and numbers of a text in lower case, as the metrics of the surface count them."""
    return tuple(_WORD.findall(text.casefold()))


def length_ratio(sums: Sums) -> float:
    """Return the words of the predictions divided by those of the references; infinite where the references are empty.

    1 says that lengths agree on the whole; predictions twice and half as long may cancel out.
    """
    predicted, expected = sums
    if not expected:
        return math.inf if predicted else math.nan
    return predicted / expected


def repetition(prediction_words: Sequence[str]) -> float:
    """Return the share of 4-grams of words that occurred before in the same text (Welleck et al., 2020); 0 of fewer.

    A loop approaches 1. Recipes repeat themselves a little: ingredient lines come back in the steps.
    """
    ngrams = _ngrams(prediction_words, REPETITION_ORDER)
    return (len(ngrams) - len(set(ngrams))) / len(ngrams) if ngrams else 0.0


def distinct(texts: Sequence[Sequence[str]], order: int) -> float:
    """Return the different n-grams of words of all texts divided by their number (Li et al., 2016); 0 of none.

    Falls with the number of texts, so only sets of one size compare. Nonsense is distinct too.
    """
    ngrams = [ngram for text in texts for ngram in _ngrams(text, order)]
    return len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def perplexity(loss: float) -> float:
    """Return exp(loss) of a token-weighted mean cross-entropy in nats.

    A loss over about 709 gives infinity, which is what float64 can say of it; a NaN loss gives NaN. Tokenizers differ
    in what a token is, so only models with one tokenizer compare.
    """
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def _ngrams(text: Sequence[str], order: int) -> list[tuple[str, ...]]:
    return list(zip(*[text[start:] for start in range(order)], strict=False))


def _signature(name: str) -> str:
    from sacrebleu import metrics

    metric = getattr(metrics, name)()
    # The number of references is part of the signature and known only after a first score.
    metric.corpus_score(["a"], [["a"]])
    return str(metric.get_signature())


@lru_cache(maxsize=1)
def _rouge_scorer() -> Any:
    from rouge_score_rs.rouge_scorer import RougeScorer

    return RougeScorer(list(ROUGE_NAMES))
