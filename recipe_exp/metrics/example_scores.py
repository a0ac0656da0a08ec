"""What an evaluation found for each example, so that two runs can be compared on the same examples later."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from hashlib import blake2b
from typing import Any

import numpy as np

from recipe_exp.metrics.bootstrap import Summed, bleu_of, mean_of, ratio_of
from recipe_exp.metrics.compute import RecipeScores
from recipe_exp.metrics.text import BleuStatistics, bleu_statistics

_ID_BYTES = 4
_LOSS_DIGITS = 8
_SCORES = tuple(field.name for field in fields(RecipeScores))


@dataclass(frozen=True)
class ExampleScores:
    """The scores of one evaluation, each in the order of the examples.

    Attributes:
        ids: of the examples by what their references say; the same recipe has the same one in every run.
        loss_sums: cross-entropy over the target tokens of each, in nats.
        target_tokens: how many those are.
        recipes: scores of what was generated for the first of the examples.
        bleu: BLEU statistics of the same.
    """

    ids: tuple[str, ...]
    loss_sums: tuple[float, ...]
    target_tokens: tuple[int, ...]
    recipes: tuple[RecipeScores, ...] = ()
    bleu: tuple[BleuStatistics, ...] = ()

    def examples_of(self, metric: str) -> tuple[str, ...]:
        """Returns the ids of the examples that a metric was computed on, `eval/` left out of its name."""
        return self.ids if metric in ("loss", "perplexity") else self.ids[: len(self.recipes)]

    def summed(self, metric: str, indices: Sequence[int]) -> Summed | None:
        """Returns a metric of some of the examples as what resampling needs; None if it is not known here.

        Args:
            metric: its name, without `eval/`.
            indices: of the examples, in the order in which they are to be paired.
        """
        match metric:
            case "loss" | "perplexity":
                ratio = ratio_of([self.loss_sums[i] for i in indices], [self.target_tokens[i] for i in indices])
                return ratio if metric == "loss" else Summed(ratio.rows, lambda sums: np.exp(ratio.finish(sums)))
            case "bleu":
                return bleu_of([self.bleu[i] for i in indices])
            case name if name in _SCORES:
                return mean_of([getattr(self.recipes[i], name) for i in indices])
        return None

    def to_data(self) -> dict[str, Any]:
        """Returns plain data, a list for each score."""
        scores = {name: [getattr(each, name) for each in self.recipes] for name in _SCORES}
        return {
            "ids": "".join(self.ids),
            "loss_sums": [_rounded(value) for value in self.loss_sums],
            "target_tokens": list(self.target_tokens),
            "recipes": {name: [_rounded(value) for value in values] for name, values in scores.items()},
            "bleu": [[*each.correct, *each.total, each.prediction_length, each.reference_length] for each in self.bleu],
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> ExampleScores:
        """Returns what `to_data` was made of.

        Raises:
            ValueError: if it is not that, such as a line that a kill cut.
        """
        try:
            texts, width = str(data["ids"]), 2 * _ID_BYTES
            ids = tuple(texts[start : start + width] for start in range(0, len(texts), width))
            columns = dict(data["recipes"])
            rows = zip(*(columns[name] for name in _SCORES), strict=True)
            bleu = (BleuStatistics(tuple(row[:4]), tuple(row[4:8]), int(row[8]), int(row[9])) for row in data["bleu"])
            return cls(
                ids=ids,
                loss_sums=tuple(math.nan if value is None else float(value) for value in data["loss_sums"]),
                target_tokens=tuple(int(count) for count in data["target_tokens"]),
                recipes=tuple(RecipeScores(*row) for row in rows),
                bleu=tuple(bleu),
            )
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(f"no scores of examples: {error}") from None


def example_id(reference: str) -> str:
    """Returns what an example is known by: eight hexadecimal digits of the hash of its reference."""
    return blake2b(reference.encode(), digest_size=_ID_BYTES).hexdigest()


def example_scores(
    references: Sequence[str],
    losses: Sequence[tuple[float, int]],
    predictions: Sequence[str],
    recipes: Sequence[RecipeScores],
) -> ExampleScores:
    """Returns the scores of an evaluation.

    Args:
        references: of every example whose loss was measured.
        losses: (summed cross-entropy, target tokens) of each.
        predictions: what was generated for the first of them.
        recipes: the scores of the predictions.
    """
    pairs = zip(references, predictions, strict=False)
    return ExampleScores(
        ids=tuple(map(example_id, references)),
        loss_sums=tuple(loss for loss, _ in losses),
        target_tokens=tuple(count for _, count in losses),
        recipes=tuple(recipes),
        bleu=tuple(bleu_statistics([reference], [prediction]) for reference, prediction in pairs),
    )


def _rounded(value: float | None) -> float | None:
    """Eight digits tell any two runs apart, and take half the room of all."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{_LOSS_DIGITS}g}")
