"""Which files are found and how they are opened, whatever lies in a folder; formats have tests of their own."""

from __future__ import annotations

import gzip
import os
import time
from pathlib import Path

import pytest

from recipe_exp.data.readers.files import find_files, find_first_files, lines_of, open_file
from recipe_exp.data.readers.jsonl import read_jsonl
from recipe_exp.errors import DataError


def written(path: Path, content: bytes = b"{}\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_links_that_lead_up_or_out_are_not_followed(tmp_path: Path) -> None:
    wanted = written(tmp_path / "data" / "a.jsonl")
    elsewhere = written(tmp_path / "elsewhere" / "b.jsonl")
    for name, target in {"up": "..", "here": ".", "root": "/", "process": "/proc/self", "self": "self"}.items():
        (tmp_path / "data" / name).symlink_to(target)
    (tmp_path / "data" / "other").symlink_to(elsewhere.parent)
    started = time.monotonic()
    assert find_files(tmp_path / "data") == [wanted, tmp_path / "data" / "other" / "b.jsonl"]
    assert time.monotonic() - started < 2.0


def test_what_a_run_wrote_is_no_data(tmp_path: Path) -> None:
    wanted = written(tmp_path / "a.jsonl")
    for mark, other in (
        ("run.json", "journal.jsonl"),
        ("card.json", "texts.jsonl"),
        ("mlflow.db", "artifact.jsonl"),
        ("file_hashes.json", "a.jsonl"),
    ):
        written(tmp_path / mark.partition(".")[0] / mark)
        written(tmp_path / mark.partition(".")[0] / other)
    written(tmp_path / "cache" / "x.building" / "texts.jsonl")
    written(tmp_path / "cache" / "x.rejects.jsonl")
    assert find_files(tmp_path) == [wanted]
    # It may be read where it is named.
    assert find_files(tmp_path / "run") == [tmp_path / "run" / "journal.jsonl"]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_folder_that_cannot_be_listed_is_not_passed_over(tmp_path: Path) -> None:
    written(tmp_path / "a.jsonl")
    written(tmp_path / "b" / "c.jsonl").parent.chmod(0)
    with pytest.raises(DataError, match="b: cannot be listed"):
        find_files(tmp_path)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/proc", "/proc/self/mem", "/sys", "/**/x.jsonl", "/**"])
def test_devices_and_the_whole_disk_are_no_data(path: str) -> None:
    with pytest.raises(DataError, match="name the one that they are in"):
        find_files(path)


def test_pipe_is_named_and_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match=r"a.jsonl: is no regular file"):
        find_files(tmp_path / "a.jsonl")


def test_some_files_are_found_without_looking_at_all(tmp_path: Path) -> None:
    for number in range(20):
        written(tmp_path / f"{number}.jsonl")
    assert len(find_first_files(tmp_path, (".jsonl",), 5)) == 5
    assert sorted(find_first_files(tmp_path, (".jsonl",), 100)) == find_files(tmp_path)


@pytest.mark.parametrize("content", [b"0" * 50_000_000, b"\n" * 20_000_000, b"\0" * 20_000_000])
def test_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, content: bytes) -> None:
    file = written(tmp_path / "bomb.jsonl", gzip.compress(content, mtime=0))
    started = time.monotonic()
    with pytest.raises(DataError, match="unpacks to over 500 times its size"):
        list(read_jsonl(file))
    assert time.monotonic() - started < 2.0


def test_bomb_behind_recipes_is_found_on_the_way(tmp_path: Path) -> None:
    good = gzip.compress(os.urandom(30_000), mtime=0)
    file = written(tmp_path / "bomb.jsonl", good + gzip.compress(b"0" * 100_000_000, mtime=0))
    with open_file(file) as stream, pytest.raises(OSError, match="unpacks to over 500 times its size"):
        list(lines_of(stream))


def test_recipes_that_repeat_are_no_bomb(tmp_path: Path) -> None:
    line = b'{"title": "Soup", "ingredients": ["water"], "instructions": ["Boil the water for ten minutes."]}\n'
    file = written(tmp_path / "same.jsonl.gz", gzip.compress(line * 20_000, mtime=0))
    assert sum(1 for _ in read_jsonl(file)) == 20_000


def test_names_are_shown_as_text(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        find_files(tmp_path / "\x1b[31m\nerror: b")
    assert str(caught.value).isprintable()
