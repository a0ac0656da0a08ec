"""Work on chunks by several threads or processes at once, with the results in the order of the chunks."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import TypeVar

from recipe_exp.errors import DataError
from recipe_exp.signals import ENDING_SIGNALS, end_with_parent

S = TypeVar("S")
T = TypeVar("T")

# Starting processes takes longer than so many chunks do.
_CHUNKS_BEFORE_PROCESSES = 8


def map_in_threads(function: Callable[[S], T], chunks: Iterable[S], num_workers: int) -> Iterator[T]:
    """Yields the results; for functions that spend their time outside of Python."""
    with ThreadPoolExecutor(num_workers) as pool:
        yield from _map_in(pool, function, chunks, num_workers)


def map_in_processes(function: Callable[[S], T], chunks: Iterable[S], num_workers: int) -> Iterator[T]:
    """Yields the results of a function that can be pickled.

    Processes are started only once there are many chunks, and end with this one however it ends.

    Raises:
        DataError: a process was killed.
    """
    remaining = iter(chunks)
    for chunk in islice(remaining, _CHUNKS_BEFORE_PROCESSES if num_workers > 1 else None):
        yield function(chunk)
    following = next(remaining, None)
    if following is None:
        return
    # Others may hold locks at this moment, which a forked child would find locked for ever.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, context, _begin_worker, (os.getpid(),)) as pool:
        try:
            yield from _map_in(pool, function, chain([following], remaining), num_workers)
        except BrokenProcessPool as error:
            raise DataError("a process that reads the data was killed; is there enough memory?") from error


def _map_in(pool: Executor, function: Callable[[S], T], chunks: Iterable[S], num_workers: int) -> Iterator[T]:
    """As many results as there are workers, and as many again, are in memory at a time."""
    remaining = iter(chunks)
    pending: deque[Future[T]] = deque(pool.submit(function, one) for one in islice(remaining, 2 * num_workers))
    try:
        while pending:
            yield pending.popleft().result()
            pending.extend(pool.submit(function, one) for one in islice(remaining, 1))
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker(parent_id: int) -> None:
    """Leaves signals to the parent, which ends this process, and ends with it when it is killed."""
    end_with_parent(parent_id)
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
