"""Metrics that compare generated text with reference text: BLEU, ROUGE and perplexity.

sacreBLEU and rouge_score_rs are imported on first use, so that importing this module costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

_BLEU_ORDER = 4
ROUGE_NAMES = ("rouge1", "rouge2", "rougeL")


@dataclass(frozen=True, slots=True)
class BleuStatistics:
    """The sufficient statistics of corpus BLEU; those of two corpora add up to those of both together.

    Attributes:
        correct: clipped n-gram matches for n = 1..4.
        total: n-grams in the predictions for n = 1..4.
        prediction_length: tokens in the predictions.
        reference_length: tokens in the references.
    """

    correct: tuple[int, ...] = (0,) * _BLEU_ORDER
    total: tuple[int, ...] = (0,) * _BLEU_ORDER
    prediction_length: int = 0
    reference_length: int = 0

    def __add__(self, other: BleuStatistics) -> BleuStatistics:
        return BleuStatistics(
            tuple(a + b for a, b in zip(self.correct, other.correct, strict=True)),
            tuple(a + b for a, b in zip(self.total, other.total, strict=True)),
            self.prediction_length + other.prediction_length,
            self.reference_length + other.reference_length,
        )

    def score(self) -> float:
        """Return corpus BLEU in [0, 100] with sacreBLEU's default smoothing; 0 without any match."""
        from sacrebleu.metrics.bleu import BLEU

        result = BLEU.compute_bleu(
            correct=list(self.correct),
            total=list(self.total),
            sys_len=self.prediction_length,
            ref_len=self.reference_length,
            smooth_method="exp",
        )
        # Four precisions of 100 % come out as 100.00000000000004.
        return min(float(result.score), 100.0)


def bleu_statistics(references: Sequence[str], predictions: Sequence[str]) -> BleuStatistics:
    """Return the BLEU statistics of predictions with one reference each.

    Raises:
        ValueError: the lengths differ or there is nothing to compare.
    """
    check_pairs(references, predictions)
    result = _bleu_metric().corpus_score(list(predictions), [list(references)])
    return BleuStatistics(tuple(result.counts), tuple(result.totals), result.sys_len, result.ref_len)


def bleu(references: Sequence[str], predictions: Sequence[str]) -> float:
    """Return corpus BLEU in [0, 100], as defined by `bleu_signature` (Post, 2018, sacreBLEU).

    Raises:
        ValueError: the lengths differ or there is nothing to compare.
    """
    return bleu_statistics(references, predictions).score()


@lru_cache(maxsize=1)
def bleu_signature() -> str:
    """Return sacreBLEU's signature of `bleu`: what makes a score comparable with another paper's."""
    metric = _bleu_metric()
    # The number of references is part of the signature and known only after a first score.
    metric.corpus_score(["a"], [["a"]])
    return str(metric.get_signature())


def rouge_scores(references: Sequence[str], predictions: Sequence[str]) -> list[dict[str, float]]:
    """Return each pair's F-measures in [0, 1] under `rouge1`, `rouge2` and `rougeL` (Lin, 2004).

    Tokens are runs of `a-z0-9` of the lower-cased text, without stemming, as in the package rouge_score with
    its defaults. So text without such characters scores 0, and accented letters split words.

    Raises:
        ValueError: the lengths differ or there is nothing to compare.
    """
    check_pairs(references, predictions)
    scorer = _rouge_scorer()
    return [
        {name: float(score.fmeasure) for name, score in scorer.score(reference, prediction).items()}
        for reference, prediction in zip(references, predictions, strict=True)
    ]


def rouge(references: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Return the mean over the pairs of each F-measure of `rouge_scores`.

    Raises:
        ValueError: the lengths differ or there is nothing to compare.
    """
    scores = rouge_scores(references, predictions)
    return {name: math.fsum(score[name] for score in scores) / len(scores) for name in ROUGE_NAMES}


def perplexity(loss: float) -> float:
    """Return exp(loss) of a token-weighted mean cross-entropy in nats.

    A loss over about 709 gives infinity, which is what float64 can say of it; a NaN loss gives NaN.
    """
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def check_pairs(references: Sequence[str], predictions: Sequence[str]) -> None:
    """Raise a ValueError unless there is one reference for each prediction and at least one pair."""
    for name, texts in (("references", references), ("predictions", predictions)):
        if isinstance(texts, str):
            raise ValueError(f"{name} is one string; pass a list of strings")
    if len(references) != len(predictions):
        raise ValueError(
            f"{len(references)} references but {len(predictions)} predictions; pass one reference for each"
        )
    if not references:
        raise ValueError("no predictions to score; pass at least one reference and prediction")


@lru_cache(maxsize=1)
def _bleu_metric() -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU()


@lru_cache(maxsize=1)
def _rouge_scorer() -> Any:
    from rouge_score_rs.rouge_scorer import RougeScorer

    return RougeScorer(list(ROUGE_NAMES))
