from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from rich.console import Console

from recipe_exp.tasks.doctor.findings import Finding, findings_of, findings_table


def shown(*findings: Finding) -> list[str]:
    console = Console(width=80, no_color=True)
    with console.capture() as capture:
        console.print(findings_table(list(findings)))
    return capture.get().splitlines()


def test_every_finding_is_a_row_with_its_fix() -> None:
    lines = shown(Finding("disk", "fail", "full", "free some space"))
    assert ["disk", "fail", "full"] in [line.split() for line in lines]
    assert ["free", "some", "space"] in [line.split() for line in lines]


def test_the_verdict_counts_failures_only() -> None:
    assert "Ready." in " ".join(shown(Finding("a", "ok", "x"), Finding("b", "warn", "y")))
    assert "2 to repair" in " ".join(shown(Finding("a", "fail", "x"), Finding("b", "fail", "y")))


def test_what_a_check_found_before_it_broke_is_kept() -> None:
    def check() -> Iterator[Finding]:
        yield Finding("first", "ok", "here")
        raise OSError("no such device")

    first, second = findings_of("second", check)
    assert first == Finding("first", "ok", "here")
    assert (second.subject, second.status) == ("second", "warn")
    assert second.text == "cannot be checked (OSError: no such device)"


def test_a_check_that_hangs_is_left_behind() -> None:
    released = threading.Event()
    started = time.monotonic()
    (found,) = findings_of("disk", lambda: Finding("disk", "ok", str(released.wait(30))), limit_seconds=0.2)
    assert time.monotonic() - started < 5
    assert (found.status, found.text) == ("warn", "no answer within 0 s")
    released.set()
