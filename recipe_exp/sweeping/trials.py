"""Running trials: a process each, so many at once, ended by a signal and never outliving the sweep."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO

from recipe_exp.config.hardware import HardwareConfig
from recipe_exp.signals import ended_with_parent, handling
from recipe_exp.sweeping.grid import Trial

POLL_SECONDS = 0.1
GRACE_SECONDS = 30.0


@dataclass(frozen=True)
class Ended:
    """How a trial's process ended.

    Attributes:
        exit_code: as the process gave it; negative for the number of the signal that killed it.
        process_id: the process that it was.
        seconds: from its start to its end.
    """

    exit_code: int
    process_id: int
    seconds: float


@dataclass(frozen=True)
class Share:
    """A slot's part of the machine, as overrides and environment variables of its trials."""

    overrides: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


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


def visible_gpus() -> list[str]:
    """Returns the GPUs that trials may be given, as `CUDA_VISIBLE_DEVICES` names them, without initializing CUDA."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        # By UUID, because the driver and CUDA number the GPUs in different orders.
        query = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
        try:
            named = ",".join(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split())
        except (OSError, subprocess.SubprocessError):
            return []
    gpus = [gpu.strip() for gpu in named.split(",")]
    # CUDA ignores everything from the first invalid name on; "-1" is the usual way to hide all GPUs.
    end = next((index for index, gpu in enumerate(gpus) if gpu in ("", "-1")), len(gpus))
    return gpus[:end]


def share_of_machine(slot: int, num_slots: int, hardware: HardwareConfig, gpus: Sequence[str]) -> Share:
    """Returns the part of the machine for a trial in one of several slots.

    CPU threads are divided evenly where `hardware.num_threads` is `auto`. They are an override and not
    `OMP_NUM_THREADS`, because the trial sets PyTorch's threads from its configuration, and because threads change
    numbers in the last bits: the trial's stored configuration has to say how many there were. Each slot gets as many
    GPUs as a trial has processes; with fewer GPUs than that, slots take turns.
    """
    if num_slots == 1:
        return Share()
    overrides: tuple[str, ...] = ()
    if hardware.num_threads == "auto":
        num_processes = 1 if hardware.num_processes == "auto" else hardware.num_processes
        num_threads = max(len(os.sched_getaffinity(0)) // (num_slots * num_processes), 1)
        overrides = (f"hardware.num_threads={num_threads}",)
    if hardware.device == "cpu" or len(gpus) < 2:
        return Share(overrides)
    even_share = max(len(gpus) // num_slots, 1)
    wanted = even_share if hardware.num_processes == "auto" else hardware.num_processes
    num_gpus = min(wanted, len(gpus))
    chosen = [gpus[(slot * num_gpus + offset) % len(gpus)] for offset in range(num_gpus)]
    return Share(overrides, {"CUDA_VISIBLE_DEVICES": ",".join(chosen)})


@dataclass(frozen=True)
class _Running:
    trial: Trial
    process: subprocess.Popen[bytes]
    started: float

    def ended(self) -> Ended | None:
        exit_code = self.process.poll()
        if exit_code is None:
            return None
        return Ended(exit_code, self.process.pid, time.monotonic() - self.started)


class TrialPool:
    """Runs trials, `num_slots` at once, each as `python -m recipe_exp` in a session of its own.

    A session of its own keeps the terminal's Ctrl-C from reaching a trial twice: the pool passes each signal on once,
    and starts nothing after the first. A second signal is passed on too, and ends a trial at once.

    When this process dies without a word, the kernel sends SIGTERM to its trials, so that none goes on alone, but each
    still writes its checkpoint and its status, and ends its own worker processes.

    Args:
        num_slots: how many run at once.
        log_folder: gets `trial-N.log`, each trial's output.
        environment: variables for every trial.
        stop: the signals that are passed on.
    """

    def __init__(self, num_slots: int, log_folder: Path, environment: Mapping[str, str], stop: StopSignals) -> None:
        self._num_slots = num_slots
        self._log_folder = log_folder
        self._environment = environment
        self._stop = stop
        self._running: dict[int, _Running] = {}

    def run(
        self, trials: Sequence[Trial], on_start: Callable[[Trial], None], on_end: Callable[[Trial, Ended], None]
    ) -> None:
        """Runs `trials` in order until all have ended, or until a signal and the end of those that run."""
        needs_gpus = self._num_slots > 1 and any(trial.config.hardware.device != "cpu" for trial in trials)
        gpus = visible_gpus() if needs_gpus else []
        waiting = deque(trials)
        try:
            while self._running or (waiting and self._stop.first is None):
                self._collect(on_end)
                while waiting and self._stop.first is None and len(self._running) < self._num_slots:
                    trial = waiting.popleft()
                    on_start(trial)
                    self._start(trial, gpus)
                time.sleep(POLL_SECONDS)
                self._pass_signals_on()
        finally:
            self._end_remaining()

    def _start(self, trial: Trial, gpus: Sequence[str]) -> None:
        slot = next(slot for slot in range(self._num_slots) if slot not in self._running)
        share = share_of_machine(slot, self._num_slots, trial.config.hardware, gpus)
        overrides = [*trial.overrides, *share.overrides, *trial.run_name_override, "hydra.mode=RUN"]
        with _open_log(log_path(self._log_folder, trial)) as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "recipe_exp", *overrides],
                # Unbuffered, so that the log shows what happens now and a killed trial's last words are in it.
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self._environment, **share.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=ended_with_parent(),
            )
        self._running[slot] = _Running(trial, process, time.monotonic())

    def _collect(self, on_end: Callable[[Trial, Ended], None]) -> None:
        for slot, running in list(self._running.items()):
            ended = running.ended()
            if ended is not None:
                del self._running[slot]
                on_end(running.trial, ended)

    def _pass_signals_on(self) -> None:
        for number in self._stop.pending():
            for running in self._running.values():
                running.process.send_signal(number)

    def _end_remaining(self) -> None:
        """Ends what runs when the sweep itself has failed."""
        for running in self._running.values():
            running.process.terminate()
        deadline = time.monotonic() + GRACE_SECONDS
        for running in self._running.values():
            try:
                running.process.wait(max(deadline - time.monotonic(), 0.0))
            except subprocess.TimeoutExpired:
                running.process.kill()
                running.process.wait()


def log_path(folder: Path, trial: Trial) -> Path:
    """Returns the file in `folder` that holds a trial's output."""
    return folder / f"trial-{trial.number}.log"


def _open_log(path: Path) -> IO[bytes]:
    try:
        return path.open("ab")
    except OSError as error:
        print(f"warning: {path}: {error.strerror}; what the trial prints is not kept", flush=True)
        return Path(os.devnull).open("ab")
