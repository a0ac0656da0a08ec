"""What a person sees while a sweep runs: a table of its trials on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from recipe_exp.config.relevance import short_names
from recipe_exp.sweeping.ledger import TrialState
from recipe_exp.sweeping.outcomes import Best, Outcome
from recipe_exp.sweeping.progress import TrialProgress

REFRESH_SECONDS = 0.5
PLAIN_SECONDS = 60.0

STYLES: Mapping[TrialState, str] = {
    "not started": "dim",
    "running": "cyan",
    "done": "green",
    "pruned": "blue",
    "failed": "red",
    "out of memory": "red",
    "killed": "red",
    "interrupted": "yellow",
}
_ORDER: tuple[TrialState, ...] = ("running", "done", "pruned", "interrupted", "killed", "failed", "out of memory")
_LINES_AROUND = 7
_MIN_ROWS = 5


@dataclass(frozen=True)
class Row:
    """One trial as it is shown.

    Attributes:
        outcome: what the ledger says of it.
        progress: how far it is; None unless this process runs it.
    """

    outcome: Outcome
    progress: TrialProgress | None = None

    @property
    def step(self) -> str:
        """The last step, of how many while it runs."""
        if self.progress is None:
            return "" if self.outcome.step is None else str(self.outcome.step)
        total = "" if self.progress.total_steps is None else f"/{self.progress.total_steps}"
        return "" if self.progress.step is None else f"{self.progress.step}{total}"

    @property
    def best(self) -> str:
        """The best value of the ranking metric."""
        value = self.outcome.best.value if self.outcome.best else None
        if self.progress is not None:
            value = self.progress.best
        return "" if value is None else f"{value:.5g}"

    @property
    def time(self) -> str:
        """What the trial took, or what is left of it."""
        if self.progress is not None:
            left = self.progress.seconds_left
            return "" if left is None else f"{format_seconds(left)} left"
        return "" if self.outcome.exit_code is None else format_seconds(self.outcome.seconds)


class Display:
    """Shows how a sweep goes.

    Args:
        metric: what ranks trials.
        num_slots: how many run at once.
        console: where.
    """

    def __init__(self, metric: str, num_slots: int, console: Console | None = None) -> None:
        self._metric = metric
        self._num_slots = num_slots
        self._console = console or Console(highlight=False)
        self._live: Live | None = None
        self._held = ExitStack()
        self._shown = time.monotonic()

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            # What is printed meanwhile appears above the table.
            self._live = Live(console=self._console, auto_refresh=False, transient=True, vertical_overflow="crop")
            self._held.enter_context(self._live)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    @property
    def is_due(self) -> bool:
        """Whether it is time to show the rows again."""
        return time.monotonic() - self._shown >= (PLAIN_SECONDS if self._live is None else REFRESH_SECONDS)

    def show(self, rows: Sequence[Row]) -> None:
        """Shows the present state of all trials: the table, or a line for each that runs."""
        self._shown = time.monotonic()
        if self._live is None:
            for row in rows:
                if row.progress is not None and row.progress.step is not None:
                    self.say(row.outcome, len(rows), _in_words(row, self._metric))
            return
        room = max(self._console.height - _LINES_AROUND, _MIN_ROWS)
        summary = Text(describe(rows, self._num_slots))
        self._live.update(Group(live_table(rows, self._metric, room), summary), refresh=True)

    def say(self, outcome: Outcome, num_trials: int, what: str) -> None:
        """Prints one line on a trial."""
        trial = outcome.trial
        name = f" ({trial.name})" if trial.name else ""
        line = Text(f"trial {trial.number}/{num_trials}{name} {what}")
        self._console.print(line, soft_wrap=True)


def live_table(rows: Sequence[Row], metric: str, room: int) -> Table:
    """Returns the table of trials: those that run first, then those that ended last, as many as there is room for."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    names = short_names(rows[0].outcome.trial.varying) if rows else {}
    table.add_column("trial", justify="right", no_wrap=True)
    for name in names.values():
        table.add_column(Text(name), overflow="fold")
    table.add_column("state", no_wrap=True)
    table.add_column("step", justify="right", no_wrap=True)
    table.add_column(Text(metric), justify="right", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    for row in _chosen(rows, room):
        trial, state = row.outcome.trial, row.outcome.state
        table.add_row(
            str(trial.number),
            *(Text(trial.varying.get(key, "")) for key in names),
            Text(state, style=STYLES[state]),
            row.step,
            row.best,
            row.time,
        )
    return table


def describe(rows: Sequence[Row], num_slots: int) -> str:
    """Returns one line: how many trials are in which state, and about how long the rest takes."""
    count = Counter(row.outcome.state for row in rows)
    parts = [f"{count[state]} {state}" for state in _ORDER if count[state]]
    parts += [f"{count['not started']} to come"] if count["not started"] else []
    left = _seconds_left(rows, num_slots)
    return ", ".join(parts) + (f"; about {format_seconds(left)} left" if left is not None else "")


def describe_end(outcome: Outcome) -> str:
    """Returns one line on how a trial ended."""
    best = f", {show_best(outcome.best)}" if outcome.best is not None else ""
    error = f": {outcome.error}" if outcome.error is not None else ""
    return f"{outcome.state} after {format_seconds(outcome.seconds)}{best}{error}"


def show_best(best: Best) -> str:
    """Returns the metric, its best value and where that was reached."""
    at_step = f" at step {best.step}" if best.step is not None else ""
    return f"{best.metric} {best.value:.5g}{at_step}"


def format_seconds(seconds: float) -> str:
    """Returns a duration as a person reads it, such as `12 s`, `3 min 05 s` or `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def _chosen(rows: Sequence[Row], room: int) -> list[Row]:
    if len(rows) <= room:
        return list(rows)
    rank = {state: place for place, state in enumerate(("running", "failed", "out of memory", "killed"))}
    important = sorted(rows, key=lambda row: (rank.get(row.outcome.state, len(rank)), -row.outcome.trial.number))
    started = [row for row in important if row.outcome.state != "not started"]
    waiting = [row for row in rows if row.outcome.state == "not started"]
    return sorted([*started, *waiting][:room], key=lambda row: row.outcome.trial.number)


def _seconds_left(rows: Sequence[Row], num_slots: int) -> float | None:
    """What runs, and for each that is to come what those that are done took, divided among the slots."""
    running = [row.progress.seconds_left for row in rows if row.progress is not None]
    if any(left is None for left in running):
        return None
    taken = [row.outcome.seconds for row in rows if row.outcome.state == "done" and row.outcome.seconds]
    num_waiting = sum(row.outcome.state == "not started" for row in rows)
    if num_waiting and not taken:
        return None
    rest = num_waiting * sum(taken) / len(taken) if num_waiting else 0.0
    return (sum(left for left in running if left is not None) + rest) / num_slots


def _in_words(row: Row, metric: str) -> str:
    best = f", best {metric} {row.best}" if row.best else ""
    left = f", {row.time}" if row.time else ""
    return f"at step {row.step}{best}{left}"
