"""What the cards of prepared data and of token caches share: an identity, and proof that nothing is missing."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Protocol, TypeAlias, TypeVar

import msgspec

from recipe_exp.files import flush_to_disk

CARD_FILE = "card.json"

Identity: TypeAlias = Mapping[str, str | int | float | bool | list[str] | None]


def fingerprint_of(identity: Identity) -> str:
    """Returns the hash of an identity, whatever the order of its keys."""
    return sha256(msgspec.json.encode(identity, order="deterministic")).hexdigest()


def sizes_of(folder: Path, names: Iterable[str]) -> dict[str, int]:
    """Returns the size in bytes of some files of a folder."""
    return {name: (folder / name).stat().st_size for name in sorted(names)}


def hashes_of(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Returns the SHA-256 of some files of a folder."""
    return {name: hash_of(folder / name) for name in sorted(names)}


def files_below(folder: Path) -> list[str]:
    """Returns the relative path of every file below a folder."""
    return [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]


def hash_of(file: Path) -> str:
    """Returns the SHA-256 of a file, as 64 hexadecimal digits."""
    with file.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


class Card(Protocol):
    """What every card says of the files beside it.

    Attributes:
        file_bytes: size of each, by its path in the folder.
        file_hashes: SHA-256 of each.
    """

    @property
    def file_bytes(self) -> Mapping[str, int]: ...
    @property
    def file_hashes(self) -> Mapping[str, str]: ...


C = TypeVar("C", bound=Card)


def read_card(folder: Path, kind: type[C], *, is_verified: bool = False) -> C | None:
    """Returns the card of a whole folder; None if there is none, or a file is not what the card says.

    Args:
        folder: what is asked for.
        kind: of card.
        is_verified: whether every file is read for its hash, and not only asked for its size.
    """
    try:
        card = msgspec.json.decode((folder / CARD_FILE).read_bytes(), type=kind)
        is_whole = all((folder / name).stat().st_size == size for name, size in card.file_bytes.items())
        if is_whole and is_verified:
            is_whole = all(hash_of(folder / name) == digest for name, digest in card.file_hashes.items())
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return card if is_whole else None


def publish(building: Path, card: object, folder: Path) -> None:
    """Makes the files of a folder last, its card after them, then gives it its name, in place of what was there."""
    for path in [*building.rglob("*"), building]:
        flush_to_disk(path)
    (building / CARD_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(card), indent=2) + b"\n")
    flush_to_disk(building / CARD_FILE)
    flush_to_disk(building)
    if folder.exists():
        shutil.rmtree(folder)
    building.rename(folder)
    flush_to_disk(folder.parent)
