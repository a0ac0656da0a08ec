from __future__ import annotations

import math

from recipe_exp.metrics import TokenLoss


def test_every_token_weighs_the_same() -> None:
    parts = [TokenLoss((2.0,), 1), TokenLoss((1.0,), 3)]
    assert (parts[0] + parts[1]).mean() == 0.75
    assert math.isnan(TokenLoss().mean())


def test_the_order_of_parts_changes_no_digit() -> None:
    parts = [TokenLoss((0.1 * index,), 3) for index in range(10)]
    forwards, backwards = TokenLoss(), TokenLoss()
    for part in parts:
        forwards, backwards = forwards + part, part + backwards
    assert forwards.mean() == backwards.mean()
