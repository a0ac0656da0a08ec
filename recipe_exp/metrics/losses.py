"""The loss of a set of examples, from sums that merge exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TokenLoss:
    """Summed cross-entropies and the number of target tokens they are of; adding two gives that of both sets.

    Attributes:
        sums: of each batch or example its summed cross-entropy in nats. They are kept apart and added exactly, so the
            order in which parts are merged changes nothing.
        num_tokens: target tokens of all of them.
    """

    sums: tuple[float, ...] = ()
    num_tokens: int = 0

    def __add__(self, other: TokenLoss) -> TokenLoss:
        return TokenLoss(self.sums + other.sums, self.num_tokens + other.num_tokens)

    def mean(self) -> float:
        """Return the cross-entropy a target token in nats, every token weighing the same; NaN of no tokens."""
        return math.fsum(self.sums) / self.num_tokens if self.num_tokens else math.nan
