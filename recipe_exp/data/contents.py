"""Where the records come from, and a fingerprint of what they hold."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from recipe_exp.config.data import FILE_FORMATS, DataConfig
from recipe_exp.config.messages import show_path
from recipe_exp.data.card_file import hash_of
from recipe_exp.data.readers.files import find_files, find_first_files
from recipe_exp.data.readers.format import Format
from recipe_exp.data.readers.huggingface import find_dataset
from recipe_exp.data.readers.registry import choose_format, find_format, suffixes_of
from recipe_exp.data.readers.rows import Record, Rejection, Row, as_text
from recipe_exp.data.sample import sample_recipes
from recipe_exp.errors import ConfigError, DataError
from recipe_exp.files import remove_stale_temporaries, write_atomically

# Part of the sample's fingerprint: raise it when the generator yields other recipes.
SAMPLE_VERSION = 1
DEFAULT_SAMPLE_SIZE = 10_000
UNKNOWN_FORMAT = "in no known format of recipes"
NO_RECIPE = "no recipe in the file"

_HASHES_FILE = "file_hashes.json"
# A file that was just written may be written again within one tick of its clock, unseen.
_SETTLED_SECONDS = 2.0


@dataclass(frozen=True)
class Contents:
    """The records of one `data` section.

    Attributes:
        fingerprint: hash of what the files hold, in reading order; folders and dates are no part of it, and names only
            of files that may name their recipe.
        files: the files in reading order; empty for the sample.
        formats: of each file, None if it is in no format that is known.
        states: what the file system said of each file before it was hashed.
        sample_size: how many recipes the sample yields; 0 for files.
    """

    fingerprint: str
    files: tuple[Path, ...] = ()
    formats: tuple[Format | None, ...] = ()
    states: tuple[tuple[int, ...], ...] = ()
    sample_size: int = 0

    def rows(self) -> Iterator[Row]:
        """Yields every row of every file, or the sample's recipes.

        Raises:
            DataError: a file cannot be read, or was changed since it was hashed.
        """
        for number, recipe in zip(range(1, self.sample_size + 1), sample_recipes(), strict=False):
            yield Record("sample", number, recipe)
        for file, known, state in zip(self.files, self.formats, self.states, strict=True):
            has_rows = False
            for row in known.read(file) if known else ():
                has_rows = True
                yield row
            if state[0] and not has_rows:
                yield Rejection(str(file), 1, NO_RECIPE if known else UNKNOWN_FORMAT)
            if not file.exists() or state_of(file) != state:
                place = show_path(file)
                raise DataError(f"{place}: was changed while it was read; start again when nothing writes to it")


def open_contents(config: DataConfig, cache_dir: Path) -> Contents:
    """Returns the records that a `data` section stands for.

    Hashes of files are remembered in `cache_dir` for as long as size, dates and inode of a file stay the same, so
    that only the first run reads the files for it.

    Raises:
        ConfigError: `data.path` is missing, or a reader of one's own cannot be imported.
        DataError: the files cannot be found or read, or the only one is in no known format.
    """
    if config.format == "sample":
        size = config.max_examples or DEFAULT_SAMPLE_SIZE
        return Contents(_digest(["sample", SAMPLE_VERSION, size]), sample_size=size)
    if config.path is None:
        raise ConfigError(["data.path: is missing; give a file, a folder or a glob"])
    files, formats = _find(config.path, config.format)
    try:
        states = tuple(state_of(file) for file in files)
        hashes = _file_hashes(files, states, cache_dir / _HASHES_FILE, is_verified=config.verify)
    except OSError as error:
        raise DataError(f"data.path={show_path(config.path)}: cannot be read: {error.strerror or error}") from error
    return Contents(_fingerprint(files, formats, hashes), files, formats, states)


def first_contents(config: DataConfig, max_files: int) -> Contents | None:
    """Returns some of the files that a `data` section stands for; None where a reader of one's own knows them.

    Nothing is hashed, so the contents have no fingerprint. A dataset of the hub is fetched if it is not here.

    Raises:
        DataError: as `open_contents` does.
    """
    if ":" in config.format or config.format == "sample" or config.path is None:
        return None
    files, formats = _find(config.path, config.format, max_files)
    try:
        states = tuple(state_of(file) for file in files)
    except OSError as error:
        raise DataError(f"data.path={show_path(config.path)}: cannot be read: {error.strerror or error}") from error
    return Contents("", files, formats, states)


def remembered_hashes(files: Sequence[Path], cache_dir: Path, *, is_verified: bool) -> list[str]:
    """Returns the SHA-256 of files, remembered as `open_contents` does.

    Args:
        files: any files.
        cache_dir: where hashes are remembered.
        is_verified: whether every file is read whatever is remembered.

    Raises:
        OSError: a file cannot be read.
    """
    states = tuple(state_of(file) for file in files)
    return _file_hashes(tuple(files), states, cache_dir / _HASHES_FILE, is_verified=is_verified)


def remembers_hashes(cache_dir: Path) -> bool:
    """Returns whether hashes of any files are remembered in a folder of caches."""
    return (cache_dir / _HASHES_FILE).is_file()


def _find(path: str, name: str, max_files: int | None = None) -> tuple[tuple[Path, ...], tuple[Format | None, ...]]:
    chosen = None if name == "auto" else find_format(name)
    if name == "huggingface":
        files = tuple(find_dataset(path))
    elif max_files is not None:
        files = tuple(find_first_files(path, suffixes_of(chosen), max_files))
    else:
        files = tuple(find_files(path, suffixes_of(chosen)))
    formats = tuple(chosen or choose_format(file) for file in files)
    if not any(formats) and len(files) != max_files:
        known = ", ".join(FILE_FORMATS)
        place = show_path(path)
        raise DataError(f"data.path={place}: {UNKNOWN_FORMAT}; if you know it, name it with data.format ({known})")
    return files, formats


def _fingerprint(files: tuple[Path, ...], formats: tuple[Format | None, ...], hashes: list[str]) -> str:
    names = {known.name if known and not known.is_named_by_file else None for known in formats}
    if len(names) == 1 and None not in names:
        return _digest([*names, *hashes])
    parts: list[str | int] = []
    for file, known, content in zip(files, formats, hashes, strict=True):
        parts += (
            [known.name, known.version, as_text(file.name) if known.is_named_by_file else ""] if known else ["unknown"]
        )
        parts.append(content)
    return _digest(parts)


def state_of(file: Path) -> tuple[int, ...]:
    """Returns size, dates and inode, by which it is told whether a file was changed."""
    status = file.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _file_hashes(
    files: tuple[Path, ...], states: tuple[tuple[int, ...], ...], memory: Path, *, is_verified: bool
) -> list[str]:
    known = {} if is_verified else _load_hashes(memory)
    hashes = []
    learnt = {}
    for file, state in zip(files, states, strict=True):
        # Names can hold a secret, and nobody reads this file.
        name = hashlib.sha256(os.fsencode(file.absolute())).hexdigest()
        entry = (state, known[name][1]) if name in known and known[name][0] == state else (state, hash_of(file))
        hashes.append(entry[1])
        if entry != known.get(name) and time.time() - max(state[1], state[2]) / 1e9 > _SETTLED_SECONDS:
            learnt[name] = entry
    if learnt:
        _save_hashes(memory, _load_hashes(memory) | learnt)
    return hashes


def _load_hashes(memory: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    try:
        return msgspec.json.decode(memory.read_bytes(), type=dict[str, tuple[tuple[int, ...], str]])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return {}


def _save_hashes(memory: Path, hashes: dict[str, tuple[tuple[int, ...], str]]) -> None:
    # Several processes may do this at once, and the last one stays. Where nothing can be written, a cache that is there
    # can still be opened.
    with suppress(OSError):
        remove_stale_temporaries(memory.parent)
        write_atomically(memory, msgspec.json.encode(hashes))


def _digest(parts: Sequence[str | int | None]) -> str:
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()
