"""What an evaluation found for each example, so that two runs can be compared on the same examples later."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, TypeAlias

import numpy as np

from recipe_exp.metrics.bootstrap import Summed, bleu_of, ratio_of

Rows: TypeAlias = tuple[tuple[float, ...], ...]

_ID_BYTES = 4
_DIGITS = 8
_OF_LOSS = ("loss", "perplexity")
_BLEU = "bleu"
_RATIO_WIDTH = 2
_BLEU_WIDTH = 10


@dataclass(frozen=True)
class ExampleScores:
    """The scores of one evaluation, each in the order of the examples.

    Attributes:
        ids: of the examples by what their references say; the same recipe has the same one in every run.
        loss_sums: cross-entropy over the target tokens of each, in nats.
        target_tokens: how many those are.
        metrics: for each metric the sums that what was generated for the first of the examples adds to it: numerator
            and denominator, or the counts of BLEU.
    """

    ids: tuple[str, ...]
    loss_sums: tuple[float, ...]
    target_tokens: tuple[int, ...]
    metrics: Mapping[str, Rows] = field(default_factory=dict)

    def examples_of(self, metric: str) -> tuple[str, ...]:
        """Returns the ids of the examples that a metric was computed on, `eval/` left out of its name."""
        return self.ids if metric in _OF_LOSS else self.ids[: len(self.metrics.get(metric, ()))]

    def summed(self, metric: str, indices: Sequence[int]) -> Summed | None:
        """Returns a metric of some of the examples as what resampling needs; None if it is not known here.

        Args:
            metric: its name, without `eval/`.
            indices: of the examples, in the order in which they are to be paired.
        """
        if metric in _OF_LOSS:
            ratio = ratio_of([self.loss_sums[i] for i in indices], [self.target_tokens[i] for i in indices])
            return ratio if metric == "loss" else Summed(ratio.rows, lambda sums: np.exp(ratio.finish(sums)))
        if metric not in self.metrics:
            return None
        rows = [self.metrics[metric][index] for index in indices]
        if len(rows[0]) == _BLEU_WIDTH:
            return bleu_of(rows)
        return ratio_of([numerator for numerator, _ in rows], [denominator for _, denominator in rows])

    def to_data(self) -> dict[str, Any]:
        """Returns plain data, a list for each score; a mean's is one number for each example, null for none."""
        return {
            "ids": "".join(self.ids),
            "loss_sums": [_rounded(value) for value in self.loss_sums],
            "target_tokens": list(self.target_tokens),
            "metrics": {name: _packed(rows) for name, rows in self.metrics.items()},
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> ExampleScores:
        """Returns what `to_data` was made of.

        Raises:
            ValueError: if it is not that, such as a line that a kill cut.
        """
        try:
            texts, width = str(data["ids"]), 2 * _ID_BYTES
            return cls(
                ids=tuple(texts[start : start + width] for start in range(0, len(texts), width)),
                loss_sums=tuple(math.nan if value is None else float(value) for value in data["loss_sums"]),
                target_tokens=tuple(int(count) for count in data["target_tokens"]),
                metrics={str(name): _unpacked(values) for name, values in data["metrics"].items()},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no scores of examples: {error}") from None


def example_id(reference: str) -> str:
    """Returns what an example is known by: eight hexadecimal digits of the hash of its reference."""
    return blake2b(reference.encode(), digest_size=_ID_BYTES).hexdigest()


def example_scores(
    references: Sequence[str], losses: Sequence[tuple[float, int]], metrics: Mapping[str, Rows]
) -> ExampleScores:
    """Returns the scores of an evaluation.

    Args:
        references: of every example whose loss was measured.
        losses: (summed cross-entropy, target tokens) of each.
        metrics: the statistics of what was generated for the first of them, by metric; those that are neither a ratio
            nor BLEU are left out.
    """
    kept = {
        name: rows
        for name, rows in metrics.items()
        if rows and (len(rows[0]) == _RATIO_WIDTH or (name.startswith(_BLEU) and len(rows[0]) == _BLEU_WIDTH))
    }
    return ExampleScores(
        ids=tuple(map(example_id, references)),
        loss_sums=tuple(loss for loss, _ in losses),
        target_tokens=tuple(count for _, count in losses),
        metrics=kept,
    )


def _packed(rows: Rows) -> list[Any]:
    is_mean = all(len(row) == _RATIO_WIDTH and row[1] in (0, 1) for row in rows)
    if is_mean:
        return [_rounded(numerator) if denominator else None for numerator, denominator in rows]
    return [[_rounded(value) for value in row] for row in rows]


def _unpacked(values: Sequence[Any]) -> Rows:
    return tuple(
        tuple(map(float, value)) if isinstance(value, list) else (0.0, 0.0) if value is None else (float(value), 1.0)
        for value in values
    )


def _rounded(value: float) -> float | int | None:
    """Eight digits tell any two runs apart, and take half the room of all."""
    if not math.isfinite(value):
        return None
    rounded = float(f"{value:.{_DIGITS}g}")
    return int(rounded) if rounded.is_integer() else rounded
