"""HTML: the recipes that a saved page holds as linked data (schema.org) in its scripts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from recipe_exp.data.readers.files import MAX_LINE_BYTES, errors_in_one_line, open_file
from recipe_exp.data.readers.format import Format, Head
from recipe_exp.data.readers.json_record import rows_of_json
from recipe_exp.data.readers.rows import Rejection, Row
from recipe_exp.data.readers.text_block import LONG_FILE

SUFFIXES = (".html", ".htm")

_SCRIPT = re.compile(rb"<script\b[^<>]*application/ld\+json[^<>]*>", re.IGNORECASE)
_SCRIPT_END = re.compile(rb"</script\s*>", re.IGNORECASE)
# Scripts are hidden from old browsers and parsers in several ways.
_OPENING = re.compile(rb"\s*+(?://|/\*)?\s*+(?:<!--|<!\[CDATA\[)\s*+(?:\*/)?")
_CLOSING = re.compile(rb"(?://|/\*)?\s*+(?:-->|\]\]>)\s*+(?:\*/)?\Z")


def read_html(path: Path) -> Iterator[Row]:
    """Yields one row for every recipe in the page's linked data, in order.

    Raises:
        DataError: the file is UTF-16, a Git LFS pointer or a damaged archive, or reading it failed.
    """
    file = str(path)
    with errors_in_one_line(path), open_file(path) as stream:
        page = stream.read(MAX_LINE_BYTES + 1)
    if len(page) > MAX_LINE_BYTES:
        yield Rejection(file, 1, LONG_FILE)
        return
    for line_number, script in _scripts(page):
        yield from rows_of_json(file, line_number, script, lenient=True)


def _scripts(page: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while start := _SCRIPT.search(page, position):
        end = _SCRIPT_END.search(page, start.end())
        position = end.end() if end else len(page)
        script = page[start.end() : end.start() if end else len(page)]
        if script.strip():
            yield page.count(b"\n", 0, start.end()) + 1, _unwrapped(script)


def _unwrapped(script: bytes) -> bytes:
    opening = _OPENING.match(script)
    return _CLOSING.sub(b"", script[opening.end() :].rstrip()) if opening else script


def _recognises(head: Head) -> bool:
    start = head.data[:1024].lower()
    return start.startswith(b"<") and any(tag in start for tag in (b"<!doctype html", b"<html", b"<head", b"<script"))


FORMAT = Format("html", SUFFIXES, read_html, _recognises)
