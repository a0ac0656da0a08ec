"""Where the time between two steps goes, by the clock of the host: nothing here waits for the device."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias, get_args

Activity: TypeAlias = Literal["data_wait", "evaluation", "logging", "checkpoint"]
ACTIVITIES: tuple[Activity, ...] = get_args(Activity)


class TimeSpent:
    """Seconds spent on what is no step, and since when they are counted.

    `data_wait` is waiting for the next window, `evaluation` scoring held-out recipes and generating, `logging` telling
    every callback of metrics, `checkpoint` saving. What happens inside something else counts for itself alone: an
    evaluation's metrics are told within it, and are logging.

    Args:
        clock: returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.start()

    def start(self) -> None:
        """Counts from zero."""
        self._begin = self._clock()
        self._seconds: dict[Activity, float] = dict.fromkeys(ACTIVITIES, 0.0)
        self._seconds_within = 0.0

    @contextmanager
    def on(self, activity: Activity) -> Iterator[None]:
        """Counts what happens inside as time spent on this; may be nested."""
        begin, before = self._clock(), self._seconds_within
        self._seconds_within = 0.0
        try:
            yield
        finally:
            whole = self._clock() - begin
            self._seconds[activity] += whole - self._seconds_within
            self._seconds_within = before + whole

    def shares(self) -> dict[Activity, float]:
        """Returns the share of each activity in the whole time since `start`, in [0, 1]."""
        whole = max(self._clock() - self._begin, 1e-9)
        return {activity: min(seconds / whole, 1.0) for activity, seconds in self._seconds.items()}
