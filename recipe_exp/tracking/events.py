"""The journal's events and how they are written and read: one JSON object a line."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

Status = Literal["running", "finished", "interrupted", "failed"]

_READ_BYTES = 1 << 18
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class Params(msgspec.Struct, tag="params", tag_field="event", frozen=True):
    """Settings of the run; the first value of a name stays."""

    time: float
    params: dict[str, str]


class Tags(msgspec.Struct, tag="tags", tag_field="event", frozen=True):
    """Labels of the run; the last value of a name stays."""

    time: float
    tags: dict[str, str]


class Metrics(msgspec.Struct, tag="metrics", tag_field="event", frozen=True):
    """Numbers at a step. A value that JSON cannot express is `"NaN"`, `"Infinity"` or `"-Infinity"`."""

    time: float
    step: int
    metrics: dict[str, float | str]


class Artifact(msgspec.Struct, tag="artifact", tag_field="event", frozen=True):
    """A file or folder to keep, by its path in the run folder.

    What is larger than `max_upload_bytes` and cannot be hard-linked is not kept but pointed to.
    """

    time: float
    path: str
    artifact_path: str | None = None
    max_upload_bytes: int | None = None


class DatasetUse(msgspec.Struct, tag="dataset", tag_field="event", frozen=True):
    """Data that the run read."""

    time: float
    name: str
    digest: str
    profile: dict[str, Any]
    context: str
    source: str = ""


class StatusChange(msgspec.Struct, tag="status", tag_field="event", frozen=True):
    """The run began, went on or ended."""

    time: float
    status: Status


class Rewind(msgspec.Struct, tag="rewind", tag_field="event", frozen=True):
    """The run goes on from a checkpoint at `step`; what was logged after it belongs to an abandoned end."""

    time: float
    step: int


Event: TypeAlias = Params | Tags | Metrics | Artifact | DatasetUse | StatusChange | Rewind

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Event)


class MetricPoint(NamedTuple):
    """One value of one metric; `time` in seconds since the epoch."""

    name: str
    value: float
    step: int
    time: float


class SeenSteps:
    """The steps at which each metric has a value, one bit each: 125 KB for a million steps."""

    def __init__(self) -> None:
        self._bits: dict[str, bytearray] = {}

    def add(self, name: str, step: int) -> bool:
        """Remember (`name`, `step`); False if it was known already."""
        bits = self._bits.setdefault(name, bytearray())
        index, bit = divmod(step, 8)
        if index >= len(bits):
            bits.extend(bytes(index + 1 - len(bits)))
        if bits[index] >> bit & 1:
            return False
        bits[index] |= 1 << bit
        return True


def encode_event(event: Event) -> bytes:
    """`event` as one line with its line break."""
    return _encoder.encode(event) + b"\n"


def decode_event(line: bytes) -> Event | None:
    """The event of one line; None for a torn or unknown one."""
    try:
        event: Event = _decoder.decode(line)
        return event
    except msgspec.MsgspecError:
        return None


def encode_metric(value: float) -> float | str:
    """`value`, or its name if it is not finite, which JSON has no number for."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def decode_metric(value: float | str) -> float:
    """The number that `encode_metric` wrote."""
    return _NON_FINITE.get(value, math.nan) if isinstance(value, str) else value


def metric_points(events: Iterable[Event], seen: SeenSteps | None = None) -> Iterator[MetricPoint]:
    """The values of all metrics in `events`, the first one of each (name, step).

    A run that goes on from a checkpoint computes some steps again; a tracker would store them twice.

    Args:
        events: in the journal's order.
        seen: what was given out before; extended by what is given out.
    """
    seen = SeenSteps() if seen is None else seen
    for event in events:
        if isinstance(event, Metrics):
            for name, value in event.metrics.items():
                if seen.add(name, event.step):
                    yield MetricPoint(name, decode_metric(value), event.step, event.time)


class EventTail:
    """Reads a growing file of events, whole lines only, from a byte offset on.

    `offset` is that of the first byte not yet read; `num_skipped` counts torn and unknown lines.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self.offset = offset
        self.num_skipped = 0

    def read(self, end: int | None = None) -> list[Event]:
        """The next events, at most about 256 KB of them.

        Args:
            end: byte offset of a line's end beyond which nothing is read; None reads what there is.
        """
        num_bytes = _READ_BYTES if end is None else min(_READ_BYTES, end - self.offset)
        lines = self._next_lines(num_bytes)
        self.offset += sum(map(len, lines))
        events = [decode_event(line) for line in lines]
        self.num_skipped += events.count(None)
        return [event for event in events if event is not None]

    def _next_lines(self, num_bytes: int) -> list[bytes]:
        try:
            with self.path.open("rb") as stream:
                stream.seek(self.offset)
                content = stream.read(num_bytes)
                if not content.endswith(b"\n"):
                    # A single line may be longer than a read; an unfinished one stays for later.
                    content += stream.readline()
        except FileNotFoundError:
            return []
        lines = content.splitlines(keepends=True)
        return lines[:-1] if lines and not lines[-1].endswith(b"\n") else lines


def read_events(path: Path) -> Iterator[Event]:
    """All events of the journal at `path`; torn and unknown lines are skipped, a missing file is empty."""
    tail = EventTail(path)
    while True:
        before = tail.offset
        yield from tail.read()
        if tail.offset == before:
            return


def last_event(path: Path) -> Event | None:
    """The last whole line of the journal at `path`; None if there is none, or if it is torn or unknown."""
    try:
        with path.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - _READ_BYTES))
            content = stream.read()
    except FileNotFoundError:
        return None
    line = content.rstrip(b"\n").rpartition(b"\n")[2]
    return decode_event(line) if content.endswith(b"\n") else None
