"""Where the records come from, and a fingerprint of what they hold."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from recipe_exp.config.data import DataConfig
from recipe_exp.data.readers.jsonl import find_files, read_jsonl
from recipe_exp.data.readers.rows import Record, Row
from recipe_exp.data.sample import sample_recipes
from recipe_exp.errors import ConfigError, DataError

# Part of the sample's fingerprint: raise it when the generator yields other recipes.
SAMPLE_VERSION = 1
DEFAULT_SAMPLE_SIZE = 10_000

_HASHES_FILE = "file_hashes.json"
# A file that was just written may be written again within one tick of its clock, unseen.
_SETTLED_SECONDS = 2.0


@dataclass(frozen=True)
class Contents:
    """The records of one `data` section.

    Attributes:
        fingerprint: hash of what the files hold, in reading order; names, folders and dates are no part of it.
        files: the files in reading order; empty for the sample.
        states: what the file system said of each file before it was hashed.
        sample_size: how many recipes the sample yields; 0 for files.
    """

    fingerprint: str
    files: tuple[Path, ...] = ()
    states: tuple[tuple[int, ...], ...] = ()
    sample_size: int = 0

    def rows(self) -> Iterator[Row]:
        """Yields every row of every file, or the sample's recipes.

        Raises:
            DataError: a file cannot be read, or was changed since it was hashed.
        """
        for number, recipe in zip(range(1, self.sample_size + 1), sample_recipes(), strict=False):
            yield Record("sample", number, recipe)
        for file, state in zip(self.files, self.states, strict=True):
            yield from read_jsonl(file)
            if not file.exists() or _state(file) != state:
                raise DataError(f"{file}: was changed while it was read; start again when nothing writes to it")


def open_contents(config: DataConfig, cache_dir: Path) -> Contents:
    """Returns the records that a `data` section stands for.

    Hashes of files are remembered in `cache_dir` for as long as size, dates and inode of a file stay the same, so
    that only the first run reads the files for it.

    Raises:
        ConfigError: `data.path` is missing.
        DataError: the files cannot be found or read.
    """
    match config.format:
        case "sample":
            size = config.max_examples or DEFAULT_SAMPLE_SIZE
            return Contents(_digest(["sample", SAMPLE_VERSION, size]), sample_size=size)
        case "jsonl":
            if config.path is None:
                raise ConfigError(["data.path: is missing; give a file, a folder or a glob of .jsonl files"])
            files = tuple(find_files(config.path))
            try:
                states = tuple(_state(file) for file in files)
                hashes = _file_hashes(files, states, cache_dir / _HASHES_FILE)
            except OSError as error:
                raise DataError(f"data.path={config.path}: cannot be read: {error.strerror or error}") from error
            return Contents(_digest(["jsonl", *hashes]), files, states)


def _state(file: Path) -> tuple[int, ...]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _file_hashes(files: tuple[Path, ...], states: tuple[tuple[int, ...], ...], memory: Path) -> list[str]:
    known = _load_hashes(memory)
    hashes = []
    learnt = {}
    for file, state in zip(files, states, strict=True):
        name = str(file.absolute())
        entry = (state, known[name][1]) if name in known and known[name][0] == state else (state, _sha256(file))
        hashes.append(entry[1])
        if entry != known.get(name) and time.time() - max(state[1], state[2]) / 1e9 > _SETTLED_SECONDS:
            learnt[name] = entry
    if learnt:
        _save_hashes(memory, known | learnt)
    return hashes


def _load_hashes(memory: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    try:
        return msgspec.json.decode(memory.read_bytes(), type=dict[str, tuple[tuple[int, ...], str]])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return {}


def _save_hashes(memory: Path, hashes: dict[str, tuple[tuple[int, ...], str]]) -> None:
    # Several processes may do this at once: each writes a file of its own, and the last one stays. Where nothing can
    # be written, a cache that is there can still be opened.
    with suppress(OSError):
        descriptor, name = tempfile.mkstemp(dir=memory.parent, prefix=f".{memory.name}.")
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(msgspec.json.encode(hashes))
        Path(name).replace(memory)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _digest(parts: list[str | int]) -> str:
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()
