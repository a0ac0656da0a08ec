"""The mask of dropout: its share, its independence, and that nothing but its place decides it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recipe_exp.data.loader import dropout_keys
from recipe_exp.models.unpadded.counter_dropout import (
    Dropout,
    column_keys,
    drop_of,
    keep,
    scale_of,
    scrambled,
    threshold_of,
)
from recipe_exp.models.unpadded.kernels import dropped

KEYS = dropout_keys((3, 4), np.arange(8), np.full(8, 100))


def mask(site: int, probability: float = 0.1, width: int = 256) -> torch.Tensor:
    row_keys = Dropout(probability, KEYS).at(site, 1)[0].row_keys
    return keep(row_keys[:, None], column_keys(width, row_keys.device), threshold_of(probability))


@pytest.mark.parametrize("probability", [0.01, 0.1, 0.5, 0.9])
def test_so_large_a_share_is_dropped_everywhere(probability: float) -> None:
    kept = mask(0, probability).float()
    error = (probability * (1 - probability)) ** 0.5
    assert abs(kept.mean() - (1 - probability)) < 5 * error / kept.numel() ** 0.5
    for dimension in (0, 1):
        shares = kept.mean(dim=dimension)
        assert (shares - (1 - probability)).abs().max() < 6 * error / kept.shape[dimension] ** 0.5


@given(st.floats(0.0, 0.99))
def test_the_expectation_is_kept(probability: float) -> None:
    threshold = threshold_of(probability)
    assert (2**31 - threshold) / 2**32 * scale_of(threshold) == pytest.approx(1.0)
    assert threshold == pytest.approx(probability * 2**32 - 2**31, abs=1)


def test_neighbours_in_every_direction_are_independent() -> None:
    first = mask(0).float() - 0.9
    others = {
        "column": (first[:, 1:], first[:, :-1]),
        "token": (first[1:], first[:-1]),
        "example": (first[100:], first[:-100]),
        "site": (first, mask(1).float() - 0.9),
        "far site": (first, mask(1 << 16).float() - 0.9),
    }
    for name, (one, other) in others.items():
        correlation = (one * other).mean() / (0.9 * 0.1)
        assert abs(correlation) < 5 / one.numel() ** 0.5, name


def test_the_hash_loses_nothing_and_spreads_every_bit() -> None:
    values = torch.arange(-50_000, 50_000, dtype=torch.int32)
    hashes = scrambled(values)
    assert len(hashes.unique()) == len(values), "a bijection"
    for bit in range(0, 32, 5):
        flipped = scrambled(values ^ (1 << bit if bit < 31 else -(2**31)))
        changed = ((hashes ^ flipped)[:, None] >> torch.arange(32)) & 1
        assert ((changed.float().mean(dim=0) - 0.5).abs() < 0.05).all(), bit


def test_what_is_dropped_is_zero_and_the_rest_is_scaled() -> None:
    site = Dropout(0.25, KEYS).at(5, 1)[0]
    values = torch.randn(len(KEYS), 64)
    found = dropped(values, drop_of(site, values))
    kept = mask(5, 0.25, 64)
    assert torch.equal(found != 0, kept)
    torch.testing.assert_close(found[kept], values[kept] / 0.75)
