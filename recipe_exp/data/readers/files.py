"""Files as every reader meets them: found, opened whether zipped or not, and read line by line."""

from __future__ import annotations

import errno
import glob
import gzip
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from recipe_exp.config.messages import show_path
from recipe_exp.errors import DataError

MAX_LINE_BYTES = 16 * 2**20
LONG_LINE = f"line over {MAX_LINE_BYTES // 2**20} MiB"
UTF8_MARK = b"\xef\xbb\xbf"

_GZIP_MAGIC = b"\x1f\x8b"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_HEAD_BYTES = 1024
_MIN_UNPACKED_BYTES = 4 * 2**20
_MAX_UNPACKED_RATIO = 500
_PACKED_HEAD_BYTES = 16 * 2**10
_MAX_UNPACKED_HEAD_BYTES = _MAX_UNPACKED_RATIO * _PACKED_HEAD_BYTES
_BOMB = f"unpacks to over {_MAX_UNPACKED_RATIO} times its size, which no text does"
_LINES_BETWEEN_LOOKS = 4096
# Devices and processes; walking them never ends.
_NO_FOLDERS = ("/proc/", "/sys/", "/dev/")
# What marks a run folder, a token cache and an output folder with MLflow's artifacts.
_OWN_FILES = ("run.json", "card.json", "data_card.json", "file_hashes.json", "mlflow.db")
_OWN_SUFFIX = ".rejects.jsonl"


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
        return _readable(path, root, sorted(_found(root, suffixes)), suffixes)
    except OSError as error:
        raise DataError(f"data.path={show_path(path)}: cannot be read: {error.strerror or error}") from error


def find_first_files(path: str | Path, suffixes: Sequence[str] | None, at_most: int) -> list[Path]:
    """Returns some of the files that `find_files` finds, in no order, without looking at all the others.

    Raises:
        DataError: as `find_files` does.
    """
    root = Path(path).expanduser()
    try:
        return _readable(path, root, list(islice(_found(root, suffixes), at_most)), suffixes)
    except OSError as error:
        raise DataError(f"data.path={show_path(path)}: cannot be read: {error.strerror or error}") from error


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
        start = raw.read(_PACKED_HEAD_BYTES)
    zipped = start.startswith(_GZIP_MAGIC)
    # Read in large pieces, so that an archive of nothing but line breaks is known before each is looked at.
    if zipped and len(zlib.decompressobj(31).decompress(start, _MAX_UNPACKED_HEAD_BYTES)) == _MAX_UNPACKED_HEAD_BYTES:
        raise OSError(errno.EFBIG, _BOMB)
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
        place = show_path(path)
        raise DataError(f"{place}: cannot be read to its end ({reason}); copy or unpack the file again") from error


def lines_of(stream: BinaryIO) -> Iterator[bytes | None]:
    """Yields each line, or None for one over `MAX_LINE_BYTES`, which is never held in memory as a whole.

    Raises:
        OSError: an archive unpacks to far more than any text would.
    """
    for number in count():
        if number % _LINES_BETWEEN_LOOKS == 0:
            refuse_bomb(stream)
        line = stream.readline(MAX_LINE_BYTES)
        if not line:
            return
        if len(line) < MAX_LINE_BYTES or line.endswith(b"\n"):
            yield line
            continue
        while (rest := stream.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
            refuse_bomb(stream)
        yield None


def refuse_bomb(stream: BinaryIO) -> None:
    """Raises an OSError if what was read of an archive so far is far more than any text would unpack to."""
    if isinstance(stream, gzip.GzipFile) and stream.tell() > _MIN_UNPACKED_BYTES:
        packed: Any = stream.fileobj
        if stream.tell() > _MAX_UNPACKED_RATIO * packed.tell():
            raise OSError(errno.EFBIG, _BOMB)


def _found(root: Path, suffixes: Sequence[str] | None) -> Iterator[Path]:
    pattern = str(root)
    if f"{os.path.realpath(root)}/".startswith(_NO_FOLDERS) or pattern.startswith("/**"):
        raise OSError(errno.EINVAL, "no folder of recipes; name the one that they are in")
    if root.is_dir():
        yield from _files_below(root, suffixes)
    elif root.exists():
        yield root
    else:
        found = glob.iglob(pattern, recursive=True)  # noqa: PTH207 - a pathlib glob needs a folder to start in
        yield from (file for file in map(Path, found) if file.is_file())


def _files_below(root: Path, suffixes: Sequence[str] | None) -> Iterator[Path]:
    endings = tuple(suffixes) if suffixes is not None else ("",)
    visited: set[str] = set()

    def is_walked(folder: Path) -> bool:
        place = os.path.realpath(folder)
        # A link may lead back up, or out of all files; what a run wrote is no data of the next one.
        leads_up = f"{os.path.realpath(root)}/".startswith(f"{place.rstrip('/')}/")
        is_ours = any(os.path.lexists(folder / name) for name in _OWN_FILES) or folder.name.endswith(".building")
        return not (place in visited or leads_up or is_ours or f"{place}/".startswith(_NO_FOLDERS))

    for folder, folders, names in os.walk(root, followlinks=True, onerror=_refuse_unlisted):
        # A folder that was visited under another name is not walked twice.
        visited.add(os.path.realpath(folder))
        folders[:] = [name for name in folders if not name.startswith(".") and is_walked(Path(folder, name))]
        for name in names:
            is_wanted = name.lower().endswith(endings) and not name.startswith(".") and not name.endswith(_OWN_SUFFIX)
            if is_wanted and Path(folder, name).is_file():
                yield Path(folder, name)


def _refuse_unlisted(error: OSError) -> None:
    """A folder that is passed over would be missing from the data without a word."""
    place = show_path(error.filename)
    raise DataError(f"{place}: cannot be listed ({error.strerror}); change its permissions, or move it away") from error


def _readable(path: str | Path, root: Path, files: list[Path], suffixes: Sequence[str] | None) -> list[Path]:
    known = [suffix for suffix in suffixes or () if not suffix.endswith(".gz")]
    if not files:
        if root.is_dir():
            kinds = " or ".join(known)
            raise DataError(f"data.path={show_path(path)}: the folder holds no {kinds} file".replace("  ", " "))
        of = f" of {' or '.join(known)} files" if len(known) == 1 else ""
        raise DataError(f"data.path={show_path(path)}: no such file or folder; give a file, a folder or a glob{of}")
    num_bytes = 0
    for file in files:
        # Asked before it is opened, which waits for ever where nobody writes into a pipe.
        if not file.is_file():
            raise DataError(f"{show_path(file)}: is no regular file; give files that can be read more than once")
        with file.open("rb") as stream:
            num_bytes += os.fstat(stream.fileno()).st_size
    if num_bytes == 0:
        raise DataError(f"data.path={show_path(path)}: is empty; give a file with recipes in it")
    return files


def _refuse_other_contents(path: Path, head: bytes) -> None:
    place = show_path(path)
    if head.startswith(LFS_POINTER):
        raise DataError(f"{place}: is a Git LFS pointer, not the data; run `git lfs pull` where it was cloned")
    # Mostly ASCII text in UTF-16 has a zero in every second byte, with or without a byte order mark.
    zeros = (head[0::2].count(0), head[1::2].count(0))
    if head.startswith(_UTF16_MARKS) or (max(zeros) > len(head) // 4 and min(zeros) < len(head) // 8):
        raise DataError(f"{place}: is UTF-16; convert it with `iconv -f UTF-16 -t UTF-8`")
