"""What a check finds, how a check is kept from stopping the others, and the table of all findings."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from recipe_exp.secrets import redact_known

Status = Literal["ok", "warn", "fail"]

LIMIT_SECONDS = 20.0
_STYLES: dict[Status, str] = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: what.
        status: `ok`, `warn` (the run may be slower, stop later or be recorded later) or `fail` (what is configured
            cannot happen until this is mended).
        text: what was found.
        fix: what to do about it; empty if nothing.
    """

    subject: str
    status: Status
    text: str
    fix: str = ""


def findings_of(
    subject: str, check: Callable[[], Finding | Iterable[Finding]], limit_seconds: float = LIMIT_SECONDS
) -> list[Finding]:
    """Returns what a check finds; one that breaks, or does not end in time, is a finding itself.

    A disk or driver that hangs would hang this process too, so each check has a thread that is left behind then.

    Args:
        subject: names the check where it says nothing itself.
        check: looks at something.
        limit_seconds: longest wait for it.
    """
    found: list[Finding] = []

    def look() -> None:
        try:
            result = check()
            # Whatever a check yields before it breaks is kept.
            for finding in [result] if isinstance(result, Finding) else result:
                found.append(finding)  # noqa: PERF402
        except Exception as error:
            reason = " ".join(redact_known(str(error)).split())[:200]
            found.append(Finding(subject, "warn", f"cannot be checked ({type(error).__name__}: {reason})"))

    thread = threading.Thread(target=look, name=f"doctor {subject}", daemon=True)
    thread.start()
    thread.join(limit_seconds)
    if thread.is_alive():
        fix = "look at the disk, driver or server behind it"
        return [*found, Finding(subject, "warn", f"no answer within {limit_seconds:.0f} s", fix)]
    return found


def findings_table(findings: list[Finding]) -> Padding:
    """Returns the findings for a terminal: subject, status, what was found and below it the fix."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    for finding in findings:
        text = Text(finding.text)
        if finding.fix:
            text.append(f"\n{finding.fix}", style="bold" if finding.status == "fail" else "")
        table.add_row(finding.subject, Text(finding.status, style=_STYLES[finding.status]), text)
    num_failed = sum(finding.status == "fail" for finding in findings)
    verdict = f"{num_failed} to repair before a run." if num_failed else "Ready."
    table.add_row("", "", "")
    table.add_row("", "", Text(verdict, style="bold" if num_failed else "bold green"))
    return Padding(table, (1, 0, 1, 1))
