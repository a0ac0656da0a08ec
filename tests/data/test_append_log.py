from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe_exp import files
from recipe_exp.data.append_log import AppendLog

NAMES = ("one", "two")
LOG = "blocks.log"

CONTENTS = st.binary(max_size=6)
BLOCKS = st.lists(st.tuples(CONTENTS, CONTENTS), max_size=6)


class Count(msgspec.Struct):
    """How many blocks there are."""

    num_blocks: int = 0


def open_log(folder: Path, origin: str = "") -> AppendLog[Count]:
    return AppendLog(folder, LOG, NAMES, Count(), origin)


def write(folder: Path, blocks: list[tuple[bytes, bytes]], unfinished: tuple[bytes, bytes] = (b"", b"")) -> None:
    with open_log(folder) as log:
        for number, contents in enumerate(blocks, start=log.state.num_blocks + 1):
            for name, content in zip(NAMES, contents, strict=True):
                log.append(name, content)
            log.commit(Count(number))
        for name, content in zip(NAMES, unfinished, strict=True):
            log.append(name, content)


def contents_after(blocks: list[tuple[bytes, bytes]]) -> list[bytes]:
    return [b"".join(block[position] for block in blocks) for position in range(len(NAMES))]


def contents_in(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in NAMES]


@settings(deadline=None, max_examples=200)
@given(data=st.data(), blocks=BLOCKS, unfinished=st.tuples(CONTENTS, CONTENTS), more=BLOCKS)
def test_what_is_found_again_is_exactly_the_last_whole_block(
    data: st.DataObject,
    blocks: list[tuple[bytes, bytes]],
    unfinished: tuple[bytes, bytes],
    more: list[tuple[bytes, bytes]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("log", numbered=True)
    write(folder, blocks, unfinished)
    for name in (*NAMES, LOG):
        size = (folder / name).stat().st_size
        os.truncate(folder / name, data.draw(st.integers(0, size) | st.just(size), label=f"bytes left of {name}"))
    sizes = [len(content) for content in contents_in(folder)]
    num_lines = (folder / LOG).read_bytes().count(b"\n") - 1
    whole = [
        number
        for number in range(1, num_lines + 1)
        if all(len(part) <= size for part, size in zip(contents_after(blocks[:number]), sizes, strict=True))
    ]
    num_blocks = max(whole, default=0)

    with open_log(folder) as log:
        assert log.is_resumed == bool(num_blocks)
        assert log.state.num_blocks == num_blocks
        assert [log.size(name) for name in NAMES] == [len(part) for part in contents_after(blocks[:num_blocks])]
    assert contents_in(folder) == contents_after(blocks[:num_blocks])

    write(folder, more)
    with open_log(folder) as log:
        assert log.state.num_blocks == num_blocks + len(more)
    assert contents_in(folder) == contents_after(blocks[:num_blocks] + more)


@given(head=st.binary(max_size=80))
@settings(deadline=None)
def test_any_bytes_for_a_log_begin_anew(head: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("log", numbered=True)
    write(folder, [(b"a", b"b")])
    (folder / LOG).write_bytes(head)
    with open_log(folder) as log:
        assert not log.is_resumed
    assert contents_in(folder) == [b"", b""]


def damage_line(folder: Path, number: int, change: Callable[[bytes], bytes]) -> None:
    lines = (folder / LOG).read_bytes().splitlines(keepends=True)
    lines[number] = change(lines[number])
    (folder / LOG).write_bytes(b"".join(lines))


@pytest.mark.parametrize(
    "change",
    [lambda _: b"{}\n", lambda _: b"\xff\n", lambda line: line.replace(b"one", b"eno"), lambda line: line[:-3] + b"\n"],
    ids=["empty", "no text", "another file", "cut"],
)
def test_nothing_after_a_broken_line_counts(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    blocks = [(b"a", b"b"), (b"cc", b"dd"), (b"e", b"f")]
    write(tmp_path, blocks)
    damage_line(tmp_path, 2, change)
    with open_log(tmp_path) as log:
        assert log.state.num_blocks == 1
    assert contents_in(tmp_path) == contents_after(blocks[:1])


def test_after_another_boot_the_files_begin_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut may have taken is only known to the disk."""
    write(tmp_path, [(b"a", b"b")])
    (tmp_path / "boot_id").write_text("another boot\n")
    monkeypatch.setattr(files, "_BOOT_ID", tmp_path / "boot_id")
    with open_log(tmp_path) as log:
        assert not log.is_resumed
        assert log.state == Count()
    assert contents_in(tmp_path) == [b"", b""]


def test_where_boots_cannot_be_told_apart_the_files_begin_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_BOOT_ID", tmp_path / "missing")
    write(tmp_path, [(b"a", b"b")])
    with open_log(tmp_path) as log:
        assert not log.is_resumed


def test_content_of_another_origin_begins_anew(tmp_path: Path) -> None:
    with open_log(tmp_path, "this file") as log:
        log.append("one", b"a")
        log.commit(Count(1))
    with open_log(tmp_path, "this file") as log:
        assert log.is_resumed
    with open_log(tmp_path, "that file") as log:
        assert not log.is_resumed


def test_a_block_is_complete_for_other_processes_when_commit_returns(tmp_path: Path) -> None:
    """What the process holds in memory dies with it."""
    process_id = os.fork()
    if process_id == 0:
        log = open_log(tmp_path)
        log.append("one", b"a")
        log.commit(Count(1))
        log.append("two", b"lost" * 10_000)
        os._exit(0)
    os.waitpid(process_id, 0)
    assert (tmp_path / "two").stat().st_size > 0
    with open_log(tmp_path) as log:
        assert log.state.num_blocks == 1
    assert contents_in(tmp_path) == [b"a", b""]
    assert [len(json.loads(line)) for line in (tmp_path / LOG).read_text().splitlines()] == [2, 2]
