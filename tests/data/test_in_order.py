from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from recipe_exp.data import in_order
from recipe_exp.data.in_order import map_in_processes, map_in_threads
from recipe_exp.data.prompts import find_template
from recipe_exp.errors import ConfigError, DataError

Map = Callable[[Callable[[Any], Any], Iterable[Any], int], Iterator[Any]]


@pytest.fixture(autouse=True)
def _processes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_order, "_CHUNKS_BEFORE_PROCESSES", 1)


@pytest.mark.parametrize("map_chunks", [map_in_threads, map_in_processes])
@pytest.mark.parametrize("num_workers", [1, 3])
def test_results_come_in_the_order_of_the_chunks(map_chunks: Map, num_workers: int) -> None:
    numbers = range(-20, 20)
    assert list(map_chunks(abs, numbers, num_workers)) == [abs(number) for number in numbers]
    assert list(map_chunks(abs, [], num_workers)) == []


def test_a_slow_chunk_is_waited_for() -> None:
    began = time.monotonic()
    seconds = [0.2, 0.0, 0.1, 0.0]
    assert list(map_in_threads(lambda one: (time.sleep(one), one)[1], seconds, 4)) == seconds
    assert time.monotonic() - began < 0.3, "they slept at the same time"


def test_what_is_in_memory_does_not_grow_with_the_chunks() -> None:
    taken: list[int] = []

    def chunks() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = map_in_threads(abs, chunks(), 2)
    next(results)
    assert len(taken) <= 5
    results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("map_chunks", [map_in_threads, map_in_processes])
def test_an_error_of_the_function_reaches_the_caller(map_chunks: Map) -> None:
    results = map_chunks(int, ["1", "2", "3", "four", "5"], 2)
    assert [next(results), next(results), next(results)] == [1, 2, 3]
    with pytest.raises(ValueError, match="'four'"):
        next(results)


def test_an_error_of_the_chunks_reaches_the_caller() -> None:
    def chunks() -> Iterator[int]:
        yield from range(3)
        raise DataError("was changed while it was read")

    with pytest.raises(DataError, match="was changed"):
        list(map_in_processes(abs, chunks(), 2))


def test_a_mistake_of_the_users_is_the_same_after_its_way_between_processes() -> None:
    with pytest.raises(ConfigError) as here:
        find_template("titel")
    with pytest.raises(ConfigError) as there:
        list(map_in_processes(find_template, ["title", "title", "titel"], 2))
    assert there.value.mistakes == here.value.mistakes


def test_a_worker_that_is_killed_is_one_line() -> None:
    with pytest.raises(DataError, match="a process that reads the data was killed; is there enough memory") as error:
        list(map_in_processes(signal.raise_signal, [signal.SIGCHLD, signal.SIGKILL, signal.SIGCHLD], 2))
    assert "\n" not in str(error.value)


def test_signals_that_end_a_run_are_left_to_the_parent() -> None:
    """A terminal sends them to every process, and the parent alone knows what to save."""
    signals = [signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]
    assert list(map_in_processes(signal.raise_signal, signals, 2)) == [None] * len(signals)


def test_few_chunks_start_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_order, "_CHUNKS_BEFORE_PROCESSES", 3)
    assert set(map_in_processes(process_id_of, range(3), 2)) == {os.getpid()}


def process_id_of(_: object) -> int:
    """Returns the process that calls this."""
    return os.getpid()


PARENT = """
import os, sys, time
from recipe_exp.data import in_order
in_order._CHUNKS_BEFORE_PROCESSES = 1
if __name__ == "__main__":
    for number, result in enumerate(in_order.map_in_processes(time.sleep, [0.0, 0.0, 0.0, 600.0, 600.0, 600.0], 2)):
        print(number, flush=True)
"""


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert [parent.stdout.readline() for _ in range(3)] == ["0\n", "1\n", "2\n"]
        children = children_of(parent.pid)
        assert len(children) >= 2
        parent.kill()
    deadline = time.monotonic() + 10
    while any(map(is_alive, children)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(is_alive, children))


def children_of(process_id: int) -> list[int]:
    return [int(number) for number in Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()]


def is_alive(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
