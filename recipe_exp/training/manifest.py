"""The list of a folder's files with their checksums, and reading them only as they were written."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
from safetensors import SafetensorError

from recipe_exp.errors import CheckpointError
from recipe_exp.files import flush_to_disk, reason_of

MANIFEST = "manifest.json"

T = TypeVar("T")


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file: its size and the sha256 of its content in hexadecimal digits."""

    bytes: int
    sha256: str


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What stands in the file; `format` is raised when the meaning of the rest changes."""

    format: Literal[1]
    step: int
    files: dict[str, Entry]


@dataclass(frozen=True)
class Manifest:
    """What a folder holds.

    Attributes:
        folder: where the files are.
        step: steps done when they were written.
        files: by name; all of them lie in the folder itself.
    """

    folder: Path
    step: int
    files: dict[str, Entry]

    @classmethod
    def of_files(cls, folder: Path, step: int, names: Iterable[str]) -> Manifest:
        """Returns the manifest of files that are there, each of which is on the disk afterwards."""
        files = {}
        for name in names:
            with (folder / name).open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
                files[name] = Entry(os.fstat(stream.fileno()).st_size, digest)
            flush_to_disk(folder / name)
        return cls(folder, step, files)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Reads the manifest of a folder.

        Raises:
            CheckpointError: if it is missing or damaged, or names a file outside the folder.
        """
        place = folder / MANIFEST
        try:
            content = msgspec.json.decode(place.read_bytes(), type=_Content)
        except FileNotFoundError:
            raise CheckpointError(f"{place}: missing") from None
        except (OSError, ValueError, RecursionError):
            raise CheckpointError(f"{place}: damaged") from None
        for name in content.files:
            if name in ("", ".", "..", MANIFEST) or "/" in name or "\0" in name:
                raise CheckpointError(f"{place}: damaged (it lists {name[:80]!r}, which is no file of this folder)")
        return cls(folder, content.step, content.files)

    def write(self) -> None:
        """Writes the manifest into the folder, both on the disk afterwards."""
        content = msgspec.json.encode(_Content(1, self.step, self.files))
        (self.folder / MANIFEST).write_bytes(msgspec.json.format(content, indent=1))
        flush_to_disk(self.folder / MANIFEST)
        flush_to_disk(self.folder)

    def check_file(self, name: str) -> None:
        """Checks one file.

        Raises:
            CheckpointError: if it is missing or damaged.
        """
        self.read_file(name, lambda _file: None)

    def read_file(self, name: str, read: Callable[[Path], T]) -> T:
        """Returns what `read` makes of a file whose content is as it was written.

        Raises:
            CheckpointError: if it is missing or damaged, or is replaced meanwhile.
        """
        file, entry = self.folder / name, self.files[name]
        if not file.is_file():
            raise CheckpointError(f"{file}: missing")
        try:
            with file.open("rb") as stream:
                status = os.fstat(stream.fileno())
                if status.st_size != entry.bytes:
                    raise CheckpointError(f"{file}: damaged ({status.st_size:,} bytes instead of {entry.bytes:,})")
                if hashlib.file_digest(stream, "sha256").hexdigest() != entry.sha256:
                    raise CheckpointError(f"{file}: damaged")
                content = read(file)
                # What was read is what was hashed as long as the name still stands for the open file.
                if _version(file.stat()) != _version(status):
                    raise CheckpointError(f"{file}: changed while it was read")
                return content
        except (OSError, ValueError, RecursionError, SafetensorError) as error:
            raise CheckpointError(f"{file}: cannot be read ({reason_of(error)})") from None


def _version(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
