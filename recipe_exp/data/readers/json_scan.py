"""Finds the objects in a JSON text of any size without holding or parsing the whole.

Brackets are counted and strings skipped, so a fault inside one object costs only that object, and neither a nesting of
a hundred thousand levels nor a string of gigabytes takes memory. What is found is not yet known to be valid JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO, Literal, NamedTuple

import msgspec

_CHUNK_BYTES = 256 * 1024

# Everything up to the next bracket; possessive, so that a string without an end is looked at once.
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_PLAIN = re.compile(rb'(?:[^"\[\]{}]++|' + _STRING + rb")*+", re.DOTALL)
_STRING_END = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
# An object with more objects in it is found by counting.
_MAX_QUICK_TRIES = 3
_SEPARATORS = re.compile(rb"(?:[\s,]++|null)*+")


class Piece(NamedTuple):
    """A part of a JSON text.

    Attributes:
        line_number: where it begins, counted from 1.
        text: an object from brace to brace, or what is left of one at the end of the text; empty if there is a fault.
        fault: an object is too long, something else stands where an object should, or the list never ends.
    """

    line_number: int
    text: bytes = b""
    fault: Literal["too long", "no object", "no end"] | None = None


def top_level_objects(stream: BinaryIO, max_bytes: int) -> Iterator[Piece]:
    """Yields every object of the text, which holds one or several one after the other."""
    return _Scan(stream, 0, max_bytes).pieces()


def inner_objects(stream: BinaryIO, max_bytes: int) -> Iterator[Piece]:
    """Yields every outermost object inside the list or object that the text is."""
    return _Scan(stream, 1, max_bytes).pieces()


_DECODER = msgspec.json.Decoder(msgspec.Raw)


def _is_json(text: bytes) -> bool:
    try:
        _DECODER.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


class _Scan:
    def __init__(self, stream: BinaryIO, floor: int, max_bytes: int) -> None:
        self._stream = stream
        self._floor = floor
        self._max_bytes = max_bytes
        self._buffer = b""
        # Offsets in the buffer: what was looked at, where the open object begins, up to where lines were counted.
        self._position = self._start = self._counted = 0
        self._line = 1
        self._depth = 0
        self._opened_at: int | None = None
        self._is_in_string = self._is_dropping = self._is_list = False

    def pieces(self) -> Iterator[Piece]:
        while self._fill():
            yield from self._scan()
            if self._opened_at is not None and len(self._buffer) - self._start > self._max_bytes:
                if not self._is_dropping:
                    yield Piece(self._line_of(self._start), fault="too long")
                self._is_dropping = True
        if self._opened_at is not None and not self._is_dropping:
            yield Piece(self._line_of(self._start), self._buffer[self._start :])
        elif self._depth and self._floor:
            yield Piece(self._line_of(len(self._buffer)), fault="no end")

    def _fill(self) -> bool:
        """Reads on; of what was looked at, only the open object is kept."""
        chunk = self._stream.read(_CHUNK_BYTES)
        if not chunk:
            return False
        keep = self._position if self._opened_at is None or self._is_dropping else self._start
        self._line_of(keep)
        self._buffer = self._buffer[keep:] + chunk
        self._position -= keep
        self._counted -= keep
        self._start = max(self._start - keep, 0)
        return True

    def _line_of(self, offset: int) -> int:
        if offset > self._counted:
            self._line += self._buffer.count(b"\n", self._counted, offset)
            self._counted = offset
        return self._line

    def _scan(self) -> Iterator[Piece]:
        buffer = self._buffer
        while True:
            if self._is_in_string and not self._leave_string():
                return
            end = _PLAIN.match(buffer, self._position).end()  # type: ignore[union-attr]  # it matches nothing, too
            if self._is_list and self._depth == 1:
                stray = _SEPARATORS.match(buffer, self._position, end).end()  # type: ignore[union-attr]
                if end == len(buffer) and b"null".startswith(buffer[stray:end]):
                    self._position = stray
                    return
                if stray < end:
                    yield Piece(self._line_of(stray), fault="no object")
            self._position = end
            if end == len(buffer):
                return
            if buffer[end] == 0x22:
                self._is_in_string = True
                self._position = end + 1
                continue
            yield from self._bracket(end)

    def _skip_to_end(self) -> None:
        """Goes to the bracket that closes the open object, if few others are in front of it and all of it is here.

        The shortest text that begins with an object's brace and is valid JSON is that object.
        """
        end = self._start
        for _ in range(_MAX_QUICK_TRIES):
            end = self._buffer.find(b"}", end) + 1
            if not end or end - self._start > _CHUNK_BYTES:
                return
            if _is_json(self._buffer[self._start : end]):
                self._position = end - 1
                return

    def _leave_string(self) -> bool:
        match = _STRING_END.match(self._buffer, self._position)
        self._is_in_string = match is None
        if match is not None:
            self._position = match.end()
            return True
        # A backslash at the end escapes what comes next.
        rest = self._buffer[self._position :]
        num_backslashes = len(rest) - len(rest.rstrip(b"\\"))
        self._position = len(self._buffer) - num_backslashes % 2
        return False

    def _bracket(self, offset: int) -> Iterator[Piece]:
        bracket = self._buffer[offset]
        if bracket in b"{[":
            if self._depth == 0:
                self._is_list = bracket == 0x5B and self._floor > 0
            if bracket == 0x7B and self._depth >= self._floor and self._opened_at is None:
                self._opened_at, self._start = self._depth, offset
                self._line_of(offset)
                self._depth += 1
                self._position = offset + 1
                self._skip_to_end()
                return
            self._depth += 1
            self._position = offset + 1
            return
        self._depth = max(self._depth - 1, 0)
        self._position = offset + 1
        if self._opened_at is not None and self._depth <= self._opened_at:
            if not self._is_dropping:
                yield Piece(self._line_of(self._start), self._buffer[self._start : offset + 1])
            self._opened_at, self._is_dropping = None, False
