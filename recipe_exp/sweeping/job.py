"""A trial as a job of a cluster: what runs beside it there, and the folder through which the sweep speaks with it.

The folder is all that a job and its sweep have in common, so that any cluster will do that runs a command on a machine
which sees it. The sweep writes `order.json` and appends to `signals`; the job makes `begun` and ends with `end.json`.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from recipe_exp.errors import ExitCode
from recipe_exp.files import write_atomically
from recipe_exp.signals import ENDING_SIGNALS, handling
from recipe_exp.sweeping.executors import Order, start_process
from recipe_exp.sweeping.ledger import Ledger
from recipe_exp.sweeping.opening import LEDGER_NAME
from recipe_exp.sweeping.presence import Presence

POLL_SECONDS = 0.5
LOOK_SECONDS = 5.0
"""Between looks at whether the sweep still wants its trial."""
_REPEAT_SECONDS = 2.0
JOBS_FOLDER = "jobs"


class End(msgspec.Struct, frozen=True):
    """How a trial's process ended there.

    Attributes:
        exit_code: negative for a signal's number.
        seconds: from its start to its end, without the time in the queue.
    """

    exit_code: int
    seconds: float


class JobFolder:
    """The folder of one job.

    Args:
        path: below the `jobs` of the sweep's folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._order_path = path / "order.json"
        self._signals_path = path / "signals"
        self._begun_path = path / "begun"
        self._end_path = path / "end.json"
        self._num_read = 0

    @property
    def sweep(self) -> Path:
        """The folder of the sweep."""
        return self.path.parent.parent

    @classmethod
    def create(cls, sweep: Path, name: str, order: Order, owner: str) -> JobFolder:
        """Makes the folder of a job that the process `owner` wants."""
        folder = cls(sweep / JOBS_FOLDER / name)
        folder.path.mkdir(parents=True)
        write_atomically(folder._order_path, msgspec.json.encode((owner, order)))
        return folder

    def order(self) -> tuple[str, Order]:
        """Returns who wants the job, and what it is."""
        return msgspec.json.decode(self._order_path.read_bytes(), type=tuple[str, Order])

    def send_signal(self, number: int) -> None:
        """Lets the job pass a signal on to its trial."""
        with self._signals_path.open("a") as stream:
            stream.write(f"{int(number)}\n")

    def signals(self) -> list[int]:
        """Returns the signals that were sent since the last call."""
        if not self._signals_path.exists():
            return []
        numbers = [int(line) for line in self._signals_path.read_text().splitlines(keepends=True) if line[-1] == "\n"]
        fresh, self._num_read = numbers[self._num_read :], len(numbers)
        return fresh

    def begin(self) -> bool:
        """Says that the job runs; False if it did once before: a cluster may start one again that it lost."""
        try:
            self._begun_path.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def has_begun(self) -> bool:
        """Whether the job has left the cluster's queue."""
        return self._begun_path.exists()

    def finish(self, end: End) -> None:
        """Says how the trial ended."""
        write_atomically(self._end_path, msgspec.json.encode(end))

    def end(self) -> End | None:
        """Returns how the trial ended; None while it has not."""
        try:
            return msgspec.json.decode(self._end_path.read_bytes(), type=End)
        except FileNotFoundError:
            return None


def run_job(path: Path) -> None:
    """Runs the trial of a job to its end, as a process whose signals come from the sweep and from the cluster.

    The trial is stopped, as by SIGTERM, when the sweep's process has died or the trial is somebody else's by now; it is
    not even started if that happened while the job waited. SIGUSR2, by which submitit has Slurm announce the end of
    the job's time, stops it too.

    Args:
        path: the job's folder.
    """
    folder = JobFolder(path)
    owner, order = folder.order()
    with _received() as received, Presence(folder.sweep, mark=order.key) as presence:
        if not folder.begin():
            return
        desk = _Desk(folder, presence, owner, order.key, received)
        while desk.is_wanted() and presence.has_others(order.key):
            # The job of a sweep that died writes its checkpoint, from which this one goes on.
            presence.beat()
            time.sleep(POLL_SECONDS)
        folder.finish(_run_trial(order, desk) if desk.is_wanted() else End(-signal.SIGTERM, 0.0))


class _Desk:
    """What reaches a job: the sweep's letters, the cluster's signals, and news of the sweep itself."""

    def __init__(self, folder: JobFolder, presence: Presence, owner: str, key: str, received: deque[int]) -> None:
        self._folder = folder
        self._presence = presence
        self._owner = owner
        self._key = key
        self._received = received
        self._ledger = Ledger(folder.sweep / LEDGER_NAME)
        self._looked = time.monotonic()
        self._received_at = float("-inf")
        self._is_stopping = False

    def is_wanted(self) -> bool:
        """Whether the trial is still to be run by the process that sent the job."""
        record = self._ledger.read().get(self._key)
        is_taken = record is not None and record.state == "running" and record.owner == self._owner
        return is_taken and self._presence.is_alive(self._owner)

    def signals(self) -> list[int]:
        """Returns the signals that the trial is to have now; only a second letter is passed on as a second signal."""
        self._presence.beat()
        letters = self._folder.signals()
        received = [self._received.popleft() for _ in range(len(self._received))]
        if received:
            self._received_at = time.monotonic()
        elif time.monotonic() - self._received_at > _REPEAT_SECONDS and letters:
            self._is_stopping = True
            return letters
        if self._is_stopping or not (received or self._is_given_up()):
            return []
        self._is_stopping = True
        return received[:1] or [signal.SIGTERM]

    def _is_given_up(self) -> bool:
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return False
        self._looked = time.monotonic()
        return not self.is_wanted()


def _run_trial(order: Order, desk: _Desk) -> End:
    began = time.monotonic()
    process = start_process(order)
    while True:
        try:
            exit_code = process.wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            for number in desk.signals():
                process.send_signal(number)
        else:
            return End(exit_code, time.monotonic() - began)


@contextmanager
def _received() -> Iterator[deque[int]]:
    """Collects the ending signals, and SIGUSR2 as SIGTERM."""
    received: deque[int] = deque()
    # Some clusters start their jobs with signals blocked or left out, which a trial would inherit.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [*ENDING_SIGNALS, signal.SIGUSR2])
    previous = signal.signal(signal.SIGUSR2, lambda _number, _frame: received.append(signal.SIGTERM))
    with handling(received.append):
        try:
            yield received
        finally:
            signal.signal(signal.SIGUSR2, previous)


def main() -> int:
    """Runs the job whose folder is named on the command line."""
    run_job(Path(sys.argv[1]))
    return ExitCode.FINISHED


if __name__ == "__main__":
    sys.exit(main())
