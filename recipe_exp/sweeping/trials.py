"""Running trials: a process each, so many at once, ended by a signal and never outliving the sweep."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

from recipe_exp.signals import handling
from recipe_exp.sweeping.executors import Executor, Exit, Order, TrialProcess
from recipe_exp.sweeping.grid import Trial
from recipe_exp.sweeping.slots import Machine, share_of_machine

POLL_SECONDS = 0.1
GRACE_SECONDS = 30.0


@dataclass(frozen=True)
class Job:
    """An attempt at a trial.

    Attributes:
        trial: which.
        overrides: of this attempt, beside the trial's own.
    """

    trial: Trial
    overrides: tuple[str, ...] = ()


class Queue(Protocol):
    """Hands out jobs and hears of their ends."""

    @property
    def is_done(self) -> bool:
        """Whether nothing will come any more, even after the jobs that run have ended."""

    def next(self) -> Job | None:
        """Returns a job for a slot that is free; None if there is none at present."""

    def on_end(self, job: Job, exit: Exit) -> None:
        """Hears how a job ended."""

    def on_tick(self) -> None:
        """Called several times a second."""


class StopSignals:
    """Takes the ending signals while a sweep runs, so that the sweep decides when it acts on them.

    Outside a process's main thread, where Python refuses handlers, it takes nothing.
    """

    def __init__(self) -> None:
        self.first: int | None = None
        self._pending: deque[int] = deque()
        self._handlers = ExitStack()

    def __enter__(self) -> StopSignals:
        self._handlers.enter_context(handling(self._take))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handlers.close()

    def pending(self) -> list[int]:
        """Returns the signals that came since the last call."""
        return [self._pending.popleft() for _ in range(len(self._pending))]

    def _take(self, number: int) -> None:
        self.first = self.first or number
        self._pending.append(number)


@dataclass(frozen=True)
class _Running:
    job: Job
    process: TrialProcess


class TrialPool:
    """Runs trials, as many at once as there are slots, each as `python -m recipe_exp` in a session of its own.

    A session of its own keeps the terminal's Ctrl-C from reaching a trial twice: the pool passes each signal on once,
    and starts nothing after the first. A second signal is passed on too, and ends a trial at once.

    Args:
        machine: what the slots divide.
        executor: starts them.
        log_folder: gets `trial-N.log`, each trial's output.
        environment: variables for every trial.
        stop: the signals that are passed on.
    """

    def __init__(
        self,
        machine: Machine,
        executor: Executor,
        log_folder: Path,
        environment: Mapping[str, str],
        stop: StopSignals,
    ) -> None:
        self._machine = machine
        self._executor = executor
        self._log_folder = log_folder
        self._environment = environment
        self._stop = stop
        self._running: dict[int, _Running] = {}

    def run(self, queue: Queue) -> None:
        """Runs what the queue hands out until there is no more, or until a signal and the end of those that run."""
        try:
            while True:
                self._collect(queue)
                self._fill(queue)
                if not self._running and (queue.is_done or self._stop.first is not None):
                    return
                queue.on_tick()
                time.sleep(POLL_SECONDS)
                self._pass_signals_on()
        finally:
            self._end_remaining()

    def _fill(self, queue: Queue) -> None:
        while self._stop.first is None and len(self._running) < self._machine.num_slots:
            job = queue.next()
            if job is None:
                return
            self._start(job)

    def _start(self, job: Job) -> None:
        trial = job.trial
        slot = next(slot for slot in range(self._machine.num_slots) if slot not in self._running)
        share = share_of_machine(slot, self._machine, trial.config.hardware)
        overrides = [*trial.overrides, *share.overrides, *trial.run_name_override, *job.overrides, "hydra.mode=RUN"]
        environment = {**self._environment, **share.environment}
        log = log_path(self._log_folder, trial.number)
        process = self._executor.start(Order(trial.key, overrides, environment, str(log), str(Path.cwd())))
        self._running[slot] = _Running(job, process)

    def _collect(self, queue: Queue) -> None:
        for slot, running in list(self._running.items()):
            exit = running.process.exit()
            if exit is not None:
                del self._running[slot]
                queue.on_end(running.job, exit)

    def _pass_signals_on(self) -> None:
        for number in self._stop.pending():
            for running in self._running.values():
                running.process.send_signal(number)

    def _end_remaining(self) -> None:
        """Ends what runs when the sweep itself has failed."""
        for running in self._running.values():
            running.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        for running in self._running.values():
            while running.process.exit() is None:
                if time.monotonic() > deadline:
                    running.process.kill()
                    break
                time.sleep(POLL_SECONDS)


def log_path(folder: Path, number: int) -> Path:
    """Returns the file in `folder` that holds the output of the trial of this number."""
    return folder / f"trial-{number}.log"
