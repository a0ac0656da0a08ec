"""Files as every reader meets them: found, opened whether zipped or not, and read line by line."""

from __future__ import annotations

import glob
import gzip
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from recipe_exp.errors import DataError

MAX_LINE_BYTES = 16 * 2**20
LONG_LINE = f"line over {MAX_LINE_BYTES // 2**20} MiB"
UTF8_MARK = b"\xef\xbb\xbf"

_GZIP_MAGIC = b"\x1f\x8b"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_HEAD_BYTES = 1024


def find_files(path: str | Path, suffixes: Sequence[str] | None = (".jsonl", ".jsonl.gz")) -> list[Path]:
    """Returns the files that a path stands for, sorted and each once.

    Args:
        path: a file of any name, a folder (every file below it with one of the suffixes, hidden ones left out), or a
            glob in which `**` crosses folders.
        suffixes: how the names of a folder's files end, in any case; None takes every file.

    Raises:
        DataError: nothing is there, no file is found, a file cannot be opened, or all of them are empty.
    """
    root = Path(path).expanduser()
    try:
        if root.is_dir():
            files = sorted(_files_below(root, suffixes))
        elif root.exists():
            files = [root]
        else:
            found = glob.iglob(str(root), recursive=True)  # noqa: PTH207 - a pathlib glob needs a folder to start in
            files = sorted(file for file in map(Path, found) if file.is_file())
        return _readable(path, root, files, suffixes)
    except OSError as error:
        raise DataError(f"data.path={path}: cannot be read: {error.strerror or error}") from error


def read_head(path: Path, num_bytes: int) -> bytes:
    """Returns the first bytes of a file, unzipped and without a byte order mark.

    Raises:
        DataError: the file is a Git LFS pointer or UTF-16, or cannot be read.
    """
    with errors_in_one_line(path), open_file(path) as stream:
        return stream.read(num_bytes).removeprefix(UTF8_MARK)


def read_text(path: Path) -> str | None:
    """Returns a file's text with any line breaks as `\\n`, or None if it is longer than `MAX_LINE_BYTES`.

    Raises:
        DataError: the file is a Git LFS pointer or UTF-16, or cannot be read.
        UnicodeDecodeError: it is not UTF-8.
    """
    with errors_in_one_line(path), open_file(path) as stream:
        content = stream.read(MAX_LINE_BYTES + 1)
    if len(content) > MAX_LINE_BYTES:
        return None
    return content.removeprefix(UTF8_MARK).decode().replace("\r\n", "\n").replace("\r", "\n")


def open_file(path: Path) -> BinaryIO:
    """Opens a file for reading, unzipped whatever its name is.

    Raises:
        DataError: the file is a Git LFS pointer or UTF-16.
        OSError: it cannot be opened, or its archive is damaged (then also EOFError and zlib.error).
    """
    with path.open("rb") as raw:
        zipped = raw.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
    stream = cast("BinaryIO", (gzip.open if zipped else open)(path, "rb"))
    try:
        _refuse_other_contents(path, stream.read(_HEAD_BYTES))
        stream.seek(0)
    except BaseException:
        stream.close()
        raise
    return stream


@contextmanager
def errors_in_one_line(path: Path) -> Iterator[None]:
    """Turns what a damaged disk or archive raises into a DataError that names the file."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read to its end ({reason}); copy or unpack the file again") from error


def lines_of(stream: BinaryIO) -> Iterator[bytes | None]:
    """Yields each line, or None for one over `MAX_LINE_BYTES`, which is never held in memory as a whole."""
    while line := stream.readline(MAX_LINE_BYTES):
        if len(line) < MAX_LINE_BYTES or line.endswith(b"\n"):
            yield line
            continue
        while (rest := stream.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
            pass
        yield None


def _files_below(root: Path, suffixes: Sequence[str] | None) -> Iterator[Path]:
    endings = tuple(suffixes) if suffixes is not None else ("",)
    visited: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        # Links may lead back up; a folder that was visited under another name is not walked twice.
        visited.add(os.path.realpath(folder))
        folders[:] = [
            name for name in folders if not name.startswith(".") and os.path.realpath(Path(folder, name)) not in visited
        ]
        for name in names:
            if name.lower().endswith(endings) and not name.startswith(".") and Path(folder, name).is_file():
                yield Path(folder, name)


def _readable(path: str | Path, root: Path, files: list[Path], suffixes: Sequence[str] | None) -> list[Path]:
    known = [suffix for suffix in suffixes or () if not suffix.endswith(".gz")]
    if not files:
        if root.is_dir():
            raise DataError(f"data.path={path}: the folder holds no {' or '.join(known)} file".replace("  ", " "))
        of = f" of {' or '.join(known)} files" if len(known) == 1 else ""
        raise DataError(f"data.path={path}: no such file or folder; give a file, a folder or a glob{of}")
    num_bytes = 0
    for file in files:
        with file.open("rb") as stream:
            num_bytes += os.fstat(stream.fileno()).st_size
    if num_bytes == 0:
        raise DataError(f"data.path={path}: is empty; give a file with recipes in it")
    return files


def _refuse_other_contents(path: Path, head: bytes) -> None:
    if head.startswith(_LFS_POINTER):
        raise DataError(f"{path}: is a Git LFS pointer, not the data; run `git lfs pull` where it was cloned")
    # Mostly ASCII text in UTF-16 has a zero in every second byte, with or without a byte order mark.
    zeros = (head[0::2].count(0), head[1::2].count(0))
    if head.startswith(_UTF16_MARKS) or (max(zeros) > len(head) // 4 and min(zeros) < len(head) // 8):
        raise DataError(f"{path}: is UTF-16; convert it with `iconv -f UTF-16 -t UTF-8`")
