"""HTML: the recipes that a saved page holds as linked data (schema.org) in its scripts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from recipe_exp.data.readers.files import LONG_LINE, MAX_LINE_BYTES, errors_in_one_line, open_file
from recipe_exp.data.readers.format import Format, Head
from recipe_exp.data.readers.json import NO_RECIPE_IN_FILE
from recipe_exp.data.readers.json_record import rows_of_json
from recipe_exp.data.readers.rows import Rejection, Row

SUFFIXES = (".html", ".htm")

_SCRIPT = re.compile(rb"<script\b[^<>]*application/ld\+json[^<>]*>", re.IGNORECASE)
_SCRIPT_END = re.compile(rb"</script\s*>", re.IGNORECASE)
# Scripts are hidden from old browsers and parsers in several ways.
_WRAPPING = re.compile(rb"\s*(?://|/\*)?\s*(?:<!--|<!\[CDATA\[|-->|\]\]>)\s*(?:\*/)?\s*")
_LONG_FILE = LONG_LINE.replace("line", "file")


def read_html(path: Path) -> Iterator[Row]:
    """Yields one row for every recipe in the page's linked data, in order.

    Raises:
        DataError: the file is UTF-16, a Git LFS pointer or a damaged archive, or reading it failed.
    """
    file = str(path)
    with errors_in_one_line(path), open_file(path) as stream:
        page = stream.read(MAX_LINE_BYTES + 1)
    if len(page) > MAX_LINE_BYTES:
        yield Rejection(file, 1, _LONG_FILE)
        return
    has_rows = False
    for line_number, script in _scripts(page):
        for row in rows_of_json(file, line_number, script, lenient=True):
            has_rows = True
            yield row
    if not has_rows:
        yield Rejection(file, 1, NO_RECIPE_IN_FILE)


def _scripts(page: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while start := _SCRIPT.search(page, position):
        end = _SCRIPT_END.search(page, start.end())
        position = end.end() if end else len(page)
        script = page[start.end() : end.start() if end else len(page)]
        if script.strip():
            yield page.count(b"\n", 0, start.end()) + 1, _unwrapped(script)


def _unwrapped(script: bytes) -> bytes:
    opening = _WRAPPING.match(script)
    script = script[opening.end() :] if opening else script
    closing = max(script.rfind(b"}"), script.rfind(b"]")) + 1
    return script[:closing] if _WRAPPING.fullmatch(script[closing:]) else script


def _recognises(head: Head) -> bool:
    start = head.data[:1024].lower()
    return start.startswith(b"<") and any(tag in start for tag in (b"<!doctype html", b"<html", b"<head", b"<script"))


FORMAT = Format("html", SUFFIXES, read_html, _recognises)
