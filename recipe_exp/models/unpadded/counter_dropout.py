"""Dropout whose mask is a hash of where it is applied: nothing is drawn in order, and nothing is stored.

An element is kept if a hash of (token key, site, column) lies above a threshold. The key of a token is drawn from
(seed, step, example, position), see `data.loader`. So a recipe has the same dropout whatever micro-batch, process or
bucket it is in, the backward pass computes the mask again instead of reading it, and compiled kernels make it in
registers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch

_STEP = -1640531527
"""2^32 over the golden ratio, as int32: spreads neighbouring columns and sites over the range of the hash."""
_FIRST_FACTOR, _SECOND_FACTOR = 2146121005, -2073254261
"""Of the 32-bit finaliser lowbias32 by Chris Wellons (https://nullprogram.com/blog/2018/07/31/), as int32."""


@dataclass(frozen=True)
class Dropout:
    """Dropout of one micro-batch of one stack.

    Attributes:
        probability: of an element to be zero.
        keys: int32, (tokens,), one for each token.
    """

    probability: float
    keys: torch.Tensor

    def at(self, first: int, count: int) -> list[Site]:
        """Returns the dropout of places in the network that are numbered one after the other.

        Args:
            first: number of the first; each place of a network has its own.
            count: how many.
        """
        # Numbers of sites are small; without the hash, keys of neighbouring sites would differ in a few bits only.
        numbers = torch.arange(first + 1, first + count + 1, dtype=torch.int32, device=self.keys.device) * _STEP
        # Tensors of their own: a compiled kernel would be compiled once more for one that starts at the second place.
        return [Site(self.probability, keys.clone()) for keys in scrambled(self.keys ^ numbers[:, None])]


@dataclass(frozen=True)
class Site:
    """Dropout at one place: what its kernels need to make the mask.

    Attributes:
        probability: of an element to be zero.
        row_keys: int32, (tokens,), a hash of token and place.
    """

    probability: float
    row_keys: torch.Tensor

    def drop(self, row_keys: torch.Tensor, columns: torch.Tensor) -> Drop:
        """Returns its dropout of rows and columns with these keys."""
        return Drop(row_keys, columns, threshold_of(self.probability), self.scale)

    @property
    def scale(self) -> float:
        """What kept elements are multiplied by."""
        return scale_of(threshold_of(self.probability))


class Drop(NamedTuple):
    """What a kernel takes of the dropout at one place.

    Attributes:
        row_keys: int32, one for each row.
        columns: int32, (width,), of `column_keys`.
        threshold: a hash below it drops.
        scale: of what is kept.
    """

    row_keys: torch.Tensor
    columns: torch.Tensor
    threshold: int
    scale: float


def drop_of(site: Site | None, like: torch.Tensor) -> Drop | None:
    """Returns the dropout of values like these, (tokens, width), at a site; None without one."""
    return None if site is None else site.drop(site.row_keys, column_keys(like.shape[1], like.device))


@lru_cache(maxsize=256)
def column_keys(num_columns: int, device: torch.device) -> torch.Tensor:
    """Returns the keys of columns, int32, (num_columns,). Kernels read them faster than they make them.

    Args:
        num_columns: how many.
        device: where they are needed.
    """
    return keys_of_columns(torch.arange(num_columns, dtype=torch.int32, device=device))


def keys_of_columns(numbers: torch.Tensor) -> torch.Tensor:
    """Returns the key of each column, int32, in the shape of their numbers, int32."""
    return numbers * _STEP


def threshold_of(probability: float) -> int:
    """Returns the int32 below which so large a share of all int32 values lies."""
    return round(probability * 2**32) - 2**31


def scale_of(threshold: int) -> float:
    """Returns one over the share of int32 values that are not below the threshold."""
    return 2**32 / (2**31 - threshold)


def keep(row_keys: torch.Tensor, columns: torch.Tensor, threshold: int) -> torch.Tensor:
    """Returns which elements are kept, a boolean tensor of the shape that both arguments broadcast to.

    Args:
        row_keys: int32, hashes of rows.
        columns: int32, of `column_keys`.
        threshold: of `threshold_of`.
    """
    return scrambled(row_keys + columns) >= threshold


def scrambled(value: torch.Tensor) -> torch.Tensor:
    """Returns a hash of each int32 whose bits all depend on all bits; a bijection."""
    value = value ^ ((value >> 16) & 0xFFFF)
    value = value * _FIRST_FACTOR
    value = value ^ ((value >> 15) & 0x1FFFF)
    value = value * _SECOND_FACTOR
    return value ^ ((value >> 16) & 0xFFFF)
