"""The most memory that a process took since it was asked to watch."""

from __future__ import annotations

import numpy as np

from recipe_exp.hardware.peak import PeakMemory

MIB = 2**20


def test_what_was_taken_and_given_back_is_seen() -> None:
    peak = PeakMemory("cpu")
    before = peak.read()
    taken = np.ones(200 * MIB, dtype=np.uint8)
    del taken
    assert 190 * MIB < peak.read() - before < 260 * MIB


def test_what_was_taken_before_is_not() -> None:
    taken = np.ones(200 * MIB, dtype=np.uint8)
    del taken
    assert PeakMemory("cpu").read() < 100 * MIB
