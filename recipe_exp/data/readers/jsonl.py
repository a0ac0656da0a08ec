"""JSON Lines: one recipe or one input/output pair a line, plain or gzipped."""

from __future__ import annotations

import glob
import gzip
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, BinaryIO, cast

import msgspec

from recipe_exp.data.readers.rows import BLANK_LINE, Pair, Record, Rejection, Row
from recipe_exp.errors import DataError
from recipe_exp.recipes.recipe import Recipe

SUFFIXES = (".jsonl", ".jsonl.gz")
MAX_LINE_BYTES = 16 * 2**20

_GZIP_MAGIC = b"\x1f\x8b"
_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_HEAD_BYTES = 1024

_PLACE = re.compile(r"(.*) - at `\$\.([^`]*)`")
_INDEX = re.compile(r"\[\d+\]")


class _Line(msgspec.Struct):
    title: str | None = None
    ingredients: list[str] | str | None = None
    instructions: list[str] | str | None = None
    input: str | None = None
    output: str | None = None
    quality_score: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] | None = None
    source: str | None = None


_DECODER = msgspec.json.Decoder(_Line)


def find_files(path: str | Path) -> list[Path]:
    """Returns the JSON Lines files that a path stands for, sorted and each once.

    Args:
        path: a file of any name, a folder (every `.jsonl` and `.jsonl.gz` below it, hidden ones left out), or a
            glob in which `**` crosses folders.

    Raises:
        DataError: nothing is there, no file is found, a file cannot be opened, or all of them are empty.
    """
    root = Path(path).expanduser()
    try:
        if root.is_dir():
            files = sorted(_files_below(root))
        elif root.exists():
            files = [root]
        else:
            found = glob.iglob(str(root), recursive=True)  # noqa: PTH207 - a pathlib glob needs a folder to start in
            files = sorted(file for file in map(Path, found) if file.is_file())
        return _readable(path, root, files)
    except OSError as error:
        raise DataError(f"data.path={path}: cannot be read: {error.strerror or error}") from error


def read_jsonl(path: Path) -> Iterator[Row]:
    """Yields one row for every line of the file, in order; only one line is in memory at a time.

    A recipe's `ingredients` and `instructions` are lists of lines or one text with line breaks. A line that is no
    record is a `Rejection`, blank lines too.

    Raises:
        DataError: the file as a whole is not JSON Lines in UTF-8 (UTF-16, one JSON list, a Git LFS pointer, a
            damaged archive), or reading it failed.
    """
    file = str(path)
    try:
        with _open(path) as stream:
            for number, line in enumerate(_lines(stream), start=1):
                yield _row(file, number, line)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{file}: cannot be read to its end ({reason}); copy or unpack the file again") from error


def _files_below(root: Path) -> Iterator[Path]:
    visited: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        # Links may lead back up; a folder that was visited under another name is not walked twice.
        visited.add(os.path.realpath(folder))
        folders[:] = [
            name for name in folders if not name.startswith(".") and os.path.realpath(Path(folder, name)) not in visited
        ]
        for name in names:
            if name.endswith(SUFFIXES) and not name.startswith(".") and Path(folder, name).is_file():
                yield Path(folder, name)


def _readable(path: str | Path, root: Path, files: list[Path]) -> list[Path]:
    if not files:
        if root.is_dir():
            raise DataError(f"data.path={path}: the folder holds no .jsonl file")
        raise DataError(f"data.path={path}: no such file or folder; give a file, a folder or a glob of .jsonl files")
    num_bytes = 0
    for file in files:
        with file.open("rb") as stream:
            num_bytes += os.fstat(stream.fileno()).st_size
    if num_bytes == 0:
        raise DataError(f"data.path={path}: is empty; give a file with one record a line")
    return files


def _open(path: Path) -> BinaryIO:
    with path.open("rb") as raw:
        zipped = raw.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
    stream = cast("BinaryIO", (gzip.open if zipped else open)(path, "rb"))
    try:
        _refuse_other_formats(path, stream.read(_HEAD_BYTES))
        stream.seek(0)
    except BaseException:
        stream.close()
        raise
    return stream


def _refuse_other_formats(path: Path, head: bytes) -> None:
    if head.startswith(_LFS_POINTER):
        raise DataError(f"{path}: is a Git LFS pointer, not the data; run `git lfs pull` where it was cloned")
    # Mostly ASCII text in UTF-16 has a zero in every second byte, with or without a byte order mark.
    zeros = (head[0::2].count(0), head[1::2].count(0))
    if head.startswith(_UTF16_MARKS) or (max(zeros) > len(head) // 4 and min(zeros) < len(head) // 8):
        raise DataError(f"{path}: is UTF-16; convert it with `iconv -f UTF-16 -t UTF-8`")
    if head.removeprefix(_UTF8_MARK).lstrip().startswith(b"["):
        raise DataError(f"{path}: is one JSON list; write one record a line, for example with `jq -c '.[]'`")


def _lines(stream: BinaryIO) -> Iterator[bytes | None]:
    """Yields each line, or None for one over `MAX_LINE_BYTES`, which is never held in memory as a whole."""
    while line := stream.readline(MAX_LINE_BYTES):
        if len(line) < MAX_LINE_BYTES or line.endswith(b"\n"):
            yield line
            continue
        while (rest := stream.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
            pass
        yield None


def _row(file: str, number: int, line: bytes | None) -> Row:
    if line is None:
        return Rejection(file, number, f"line over {MAX_LINE_BYTES // 2**20} MiB")
    # Files that were joined keep the marks of all their parts.
    if line.startswith(_UTF8_MARK):
        line = line[len(_UTF8_MARK) :]
    if not line.strip():
        return Rejection(file, number, BLANK_LINE)
    try:
        return _record(file, number, _DECODER.decode(line))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Rejection(file, number, _reason(error, line))


def _record(file: str, number: int, line: _Line) -> Row:
    if line.input is not None and line.output is not None:
        return Record(file, number, Pair(line.input, line.output, line.quality_score))
    if line.title is None and line.ingredients is None and line.instructions is None:
        return Rejection(file, number, "neither title, ingredients and instructions nor input and output")
    recipe = Recipe(
        title=line.title or "",
        ingredients=_texts(line.ingredients),
        instructions=_texts(line.instructions),
        quality_score=line.quality_score,
        source=line.source,
    )
    return Record(file, number, recipe)


def _texts(value: Iterable[str] | str | None) -> tuple[str, ...]:
    if value is None:
        return ()
    return tuple(value.splitlines() if isinstance(value, str) else value)


def _reason(error: Exception, line: bytes) -> str:
    """Returns the fault without the line's own numbers, so that equal faults are counted together."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    if isinstance(error, msgspec.ValidationError):
        place = _PLACE.fullmatch(str(error))
        if place is None:
            return "not a JSON object"
        return f"{_INDEX.sub('[]', place[2])}: {place[1][:1].lower()}{place[1][1:]}".replace("`", "").replace(
            " | null", ""
        )
    return "NUL bytes" if b"\0" in line else "not valid JSON"
