"""The ledger of a sweep: what is to be run, who runs it and what came of it, as lines that are only ever appended."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from recipe_exp.errors import TrackingError
from recipe_exp.files import append_whole, file_lock

TrialState: TypeAlias = Literal[
    "not started", "running", "done", "failed", "out of memory", "pruned", "killed", "interrupted"
]
"""`done` and `pruned` are results; the others are run, or run again, by the command that is given next."""

RESULTS: frozenset[TrialState] = frozenset({"done", "pruned"})


class Planned(msgspec.Struct, frozen=True, tag="trial", tag_field="event"):
    """A trial belongs to the sweep.

    Attributes:
        key: what it is known by; see `identity.trial_key`.
        number: counted from 1, in the order in which trials were planned.
        varying: what tells it from the other trials.
        overrides: its command line.
        draw: what a search that learns knows it by.
    """

    time: float
    key: str
    number: int
    varying: dict[str, str]
    overrides: list[str]
    draw: int | None = None


class Started(msgspec.Struct, frozen=True, tag="start", tag_field="event"):
    """A process took a trial.

    Attributes:
        key: of the trial.
        owner: the process; see `presence`.
        micro_batch_tokens: the micro-batch that an attempt after full memory is made with.
    """

    time: float
    key: str
    owner: str
    micro_batch_tokens: int | None = None


class Ended(msgspec.Struct, frozen=True, tag="end", tag_field="event"):
    """An attempt at a trial ended.

    Attributes:
        key: of the trial.
        state: how.
        exit_code: of its process, negative for a signal's number; None if nobody saw its end.
        seconds: wall time of its process.
        run_id: of its run folder; None if it made none.
        run_folder: name of that folder.
        step: the last step of training.
        metric: what ranks trials.
        best: the best value of that, and `best_step` where it was evaluated.
        micro_batch_tokens: the micro-batch that it ended with.
        error: why it failed, in one line.
    """

    time: float
    key: str
    state: TrialState
    exit_code: int | None = None
    seconds: float = 0.0
    run_id: str | None = None
    run_folder: str | None = None
    step: int | None = None
    metric: str | None = None
    best: float | None = None
    best_step: int | None = None
    micro_batch_tokens: int | None = None
    error: str | None = None


Event: TypeAlias = Planned | Started | Ended

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


@dataclass(frozen=True)
class TrialRecord:
    """What the ledger says of one trial.

    Attributes:
        key: what it is known by.
        number: counted from 1.
        varying: what tells it from the others.
        overrides: its command line.
        draw: what a search that learns knows it by.
        state: the present one.
        owner: the process that took it last.
        micro_batch_tokens: what an attempt after full memory was made with.
        num_attempts: how often it was taken.
        seconds: of all its attempts.
        end: how the last attempt ended; None before the first end.
    """

    key: str
    number: int
    varying: Mapping[str, str] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    draw: int | None = None
    state: TrialState = "not started"
    owner: str | None = None
    micro_batch_tokens: int | None = None
    num_attempts: int = 0
    seconds: float = 0.0
    end: Ended | None = None


def fold(events: Iterable[Event], into: Mapping[str, TrialRecord] | None = None) -> dict[str, TrialRecord]:
    """Returns what events say of each trial, by its key and in the order of their numbers' planning.

    Args:
        events: in the order in which they were appended.
        into: what earlier events said.
    """
    records = dict(into or {})
    for event in events:
        record = records.get(event.key)
        match event:
            case Planned():
                if record is None:
                    overrides = tuple(event.overrides)
                    records[event.key] = TrialRecord(event.key, event.number, event.varying, overrides, event.draw)
            case Started() if record is not None:
                records[event.key] = replace(
                    record,
                    state="running",
                    owner=event.owner,
                    micro_batch_tokens=event.micro_batch_tokens or record.micro_batch_tokens,
                    num_attempts=record.num_attempts + 1,
                )
            case Ended() if record is not None:
                # An attempt that made no run folder has not made that of an earlier one go.
                end = event if event.run_id or record.end is None else _with_run_of(event, record.end)
                seconds = record.seconds + event.seconds
                records[event.key] = replace(record, state=event.state, seconds=seconds, end=end)
            case _:  # what a torn line told of is not known
                pass
    return records


def _with_run_of(event: Ended, before: Ended) -> Ended:
    return msgspec.structs.replace(event, run_id=before.run_id, run_folder=before.run_folder)


class Ledger:
    """The ledger's file, shared by every process that works on the sweep.

    A line is on the disk when the call that appended it returns. A line that a kill or a full disk tore is passed over
    by every reader, and ended by whoever appends next.

    Args:
        path: made with the first line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_path = path.with_name(f".{path.name}.lock")
        self._records: dict[str, TrialRecord] = {}
        self._position = 0

    def read(self) -> dict[str, TrialRecord]:
        """Returns every trial's record by its key; only what was appended since the last call is read."""
        try:
            with self.path.open("rb") as stream:
                stream.seek(self._position)
                content = stream.read()
        except FileNotFoundError:
            return {}
        whole = content[: content.rfind(b"\n") + 1]
        self._position += len(whole)
        self._records = fold(_events(whole), self._records)
        return dict(self._records)

    def append(self, decide: Callable[[dict[str, TrialRecord]], Sequence[Event]]) -> dict[str, TrialRecord]:
        """Appends what `decide` answers to the present records, with nobody else between the two.

        Returns:
            The records afterwards.

        Raises:
            TrackingError: the disk refuses.
        """
        with file_lock(self._lock_path):
            events = decide(self.read())
            if events:
                lines = b"".join(_encoder.encode(event) + b"\n" for event in events)
                try:
                    append_whole(self.path, b"\n" + lines if self._is_torn() else lines)
                except OSError as error:
                    raise TrackingError(
                        f"{self.path}: cannot be written ({error.strerror}); make room on that disk, then give the "
                        "same command again"
                    ) from error
            return self.read()

    def _is_torn(self) -> bool:
        if not self.path.exists() or self.path.stat().st_size == 0:
            return False
        with self.path.open("rb") as stream:
            stream.seek(-1, os.SEEK_END)
            return stream.read(1) != b"\n"


def now() -> float:
    """Returns seconds since the epoch, to the millisecond."""
    return round(time.time(), 3)


def _events(lines: bytes) -> Iterable[Any]:
    for line in lines.splitlines():
        try:
            yield _decoder.decode(line)
        except msgspec.MsgspecError:  # torn, or by a later version
            continue
