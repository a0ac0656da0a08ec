"""Train, validation and test: the side of a recipe is decided by its own title, whatever else is in the data."""

from __future__ import annotations

import hashlib
from typing import Literal, TypeAlias

from recipe_exp.errors import DataError
from recipe_exp.recipes.text import normalise_title

Split: TypeAlias = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

_HASH_RANGE = 2**64


def split_of(title: str, validation_fraction: float, test_fraction: float) -> Split:
    """Returns the split of a recipe, which depends on its normalised title and the two fractions only.

    The title's SHA-256 is a point on a line: the test split takes the left end, the validation split the right
    one. So a recipe moves only out of the training split as a fraction grows, and never between the other two.

    Raises:
        DataError: the fractions leave nothing to train on.
    """
    if validation_fraction + test_fraction >= 1.0:
        raise DataError("data.validation_fraction and data.test_fraction: together they must be less than 1")
    point = point_of(title)
    if point < test_fraction * _HASH_RANGE:
        return "test"
    if _HASH_RANGE - 1 - point < validation_fraction * _HASH_RANGE:
        return "validation"
    return "train"


def point_of(title: str) -> int:
    """Returns where a title stands on the line that is cut into splits: the first 64 bits of its SHA-256."""
    key = normalise_title(title) or title
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8], "big")
