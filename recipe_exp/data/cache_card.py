"""The card of a token cache: what the cache is, what it holds, and whether it is whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TypeAlias

import msgspec

from recipe_exp.data.corpus import CorpusReport, Split

CARD_FILE = "card.json"

Identity: TypeAlias = Mapping[str, str | int | float | bool | None]


@dataclass(frozen=True)
class SplitCard:
    """Counts of one split; tokens are counted as they are stored, without any padding.

    Attributes:
        num_examples: its examples.
        num_source_tokens: tokens of all sources, end-of-sequence tokens included.
        num_target_tokens: tokens of all targets, end-of-sequence tokens included.
        truncated_source_fraction: share of the sources that were cut to `data.max_source_tokens`.
        truncated_target_fraction: share of the targets that were cut to `data.max_target_tokens`.
        unknown_token_fraction: share of the tokens that stand for text which the vocabulary cannot express.
    """

    num_examples: int
    num_source_tokens: int
    num_target_tokens: int
    truncated_source_fraction: float
    truncated_target_fraction: float
    unknown_token_fraction: float


@dataclass(frozen=True)
class CacheCard:
    """What a cache is and holds.

    Attributes:
        fingerprint: hash of `identity`.
        data_fingerprint: hash of the contents of the data only.
        identity: everything that decides the tokens.
        pad_id: the id that fills up sources in a batch.
        report: what became of the records.
        splits: counts of each split.
        file_bytes: size of every other file, by its path in the cache.
    """

    fingerprint: str
    data_fingerprint: str
    identity: Identity
    pad_id: int
    report: CorpusReport
    splits: Mapping[Split, SplitCard]
    file_bytes: Mapping[str, int]


def fingerprint_of(identity: Identity) -> str:
    """Returns the hash of an identity, whatever the order of its keys."""
    return sha256(msgspec.json.encode(identity, order="deterministic")).hexdigest()


def sizes_of_files(folder: Path) -> dict[str, int]:
    """Returns the size in bytes of every file below a folder but its card, by relative path."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != CARD_FILE)
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}


def write_card(folder: Path, card: CacheCard) -> None:
    """Writes the card of a cache whose other files are complete."""
    (folder / CARD_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(card), indent=2) + b"\n")


def read_card(folder: Path) -> CacheCard | None:
    """Returns the card of a whole cache; None if there is none or one of its files has not the size on the card."""
    try:
        card = msgspec.json.decode((folder / CARD_FILE).read_bytes(), type=CacheCard)
        whole = all((folder / name).stat().st_size == size for name, size in card.file_bytes.items())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return card if whole else None
