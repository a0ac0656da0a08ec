"""The card of a token cache: what the cache is, what it holds, and whether it is whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from recipe_exp.data.card_file import Identity
from recipe_exp.data.split import Split


@dataclass(frozen=True)
class InexactCause:
    """What texts lose or change on their way through the tokenizer.

    Attributes:
        what: a character, or what is wrong with a line.
        count: how often it occurs in the targets that do not come back exactly.
        becomes: what comes back of the character, which may be nothing; None for a line.
    """

    what: str
    count: int
    becomes: str | None


@dataclass(frozen=True)
class SplitCard:
    """Counts of one split; tokens are counted as they are stored, without any padding.

    Attributes:
        num_examples: its examples.
        num_source_tokens: tokens of all sources, of every prompt, end-of-sequence tokens included.
        num_target_tokens: tokens of all targets, end-of-sequence tokens included.
        truncated_source_fraction: share of the sources that were cut to `data.max_source_tokens`.
        truncated_target_fraction: share of the targets that were cut to `data.max_target_tokens`.
        unknown_token_fraction: share of the tokens that stand for text which the vocabulary cannot express.
        inexact_target_fraction: share of the targets that decoding, before any cut, does not give back exactly.
        inexact_causes: why, the most frequent first, at most ten.
    """

    num_examples: int
    num_source_tokens: int
    num_target_tokens: int
    truncated_source_fraction: float
    truncated_target_fraction: float
    unknown_token_fraction: float
    inexact_target_fraction: float
    inexact_causes: tuple[InexactCause, ...]


@dataclass(frozen=True)
class CacheCard:
    """What a cache is and holds.

    Attributes:
        fingerprint: hash of `identity`.
        data_fingerprint: hash of the splits that were tokenized.
        identity: everything that decides the tokens.
        pad_id: the id that fills up sources in a batch.
        splits: counts of each split.
        file_bytes: size of every other file, by its path in the cache.
        file_hashes: SHA-256 of every other file.
    """

    fingerprint: str
    data_fingerprint: str
    identity: Identity
    pad_id: int
    splits: Mapping[Split, SplitCard]
    file_bytes: Mapping[str, int]
    file_hashes: Mapping[str, str]
