"""The queue between ledger and slots: hands out what is to be run, and writes down what came of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

from recipe_exp.config.sweep import SweepConfig
from recipe_exp.errors import CheckpointError
from recipe_exp.sweeping.decisions import Decision, decide
from recipe_exp.sweeping.executors import Exit
from recipe_exp.sweeping.grid import Trial
from recipe_exp.sweeping.ledger import RESULTS, Ended, Ledger, Planned, Started, TrialRecord, now
from recipe_exp.sweeping.live import Display, Row, describe_end
from recipe_exp.sweeping.outcomes import Outcome, best_outcome, find_trial_run, outcome_of, read_end, unseen_end
from recipe_exp.sweeping.presence import Presence
from recipe_exp.sweeping.progress import Evaluation, TrialProgress
from recipe_exp.sweeping.trials import Job
from recipe_exp.tracking import RunFolder, UploaderHandle, is_alive


class Search(Protocol):
    """Thinks of further trials, from what came of those before."""

    @property
    def is_done(self) -> bool:
        """Whether it has no further trial."""

    def next(self) -> bool:
        """Plans a further trial in the ledger; returns whether there is one."""

    def on_evaluation(self, record: TrialRecord, evaluation: Evaluation) -> None:
        """Hears of an evaluation during training."""

    def on_end(self, record: TrialRecord) -> None:
        """Hears what came of a trial; called again for the same trial when a sweep goes on."""


@dataclass
class Board:
    """What one process knows of a sweep's trials.

    Attributes:
        folder: of the sweep.
        ledger: what is on the disk.
        presence: this process among those that work on the sweep.
        sweep: settings.
        trials: by their keys; those that other commands have added are looked up when they are met.
        look_up: makes a trial of a record that this command does not know.
        mine: keys of the trials that this process took.
        uploader: sends the sweep's record; None unless this process keeps it.
    """

    folder: RunFolder
    ledger: Ledger
    presence: Presence
    sweep: SweepConfig
    trials: dict[str, Trial]
    look_up: Callable[[TrialRecord], Trial]
    mine: set[str] = field(default_factory=set)
    uploader: UploaderHandle | None = None

    def trial(self, record: TrialRecord) -> Trial:
        """Returns the trial of a record, under the number that the ledger gives it."""
        found = self.trials.get(record.key)
        if found is None or found.number != record.number:
            found = self.look_up(record) if found is None else renumbered(found, record.number)
            self.trials[record.key] = found
        return found

    def outcomes(self) -> list[Outcome]:
        """Returns what has come of every trial so far, in the order of their numbers."""
        records = sorted(self.ledger.read().values(), key=lambda record: record.number)
        return [outcome_of(self.trial(record), record) for record in records]

    def plan(self, trials: Sequence[Trial], draw: int | None = None) -> None:
        """Writes down trials that the ledger does not know yet."""

        def missing(records: dict[str, TrialRecord]) -> list[Planned]:
            first = max((record.number for record in records.values()), default=0) + 1
            unknown = [trial for trial in trials if trial.key not in records]
            return [
                Planned(now(), trial.key, number, dict(trial.varying), list(trial.overrides), draw)
                for number, trial in enumerate(unknown, first)
            ]

        self.trials |= {trial.key: trial for trial in trials}
        self.ledger.append(missing)

    def decide(self, record: TrialRecord) -> Decision:
        """Returns what to do with a trial."""
        return decide(record, self.sweep, self.presence.is_alive, self._find_run)

    def _find_run(self, record: TrialRecord) -> tuple[str | None, bool]:
        # A job of a cluster outlives the sweep's process for a while, and its machine's locks may not reach here.
        is_job_alive = self.presence.has_others(record.key)
        folder = find_trial_run(self.folder, record.key)
        # Without its configuration there is nothing to continue.
        if folder is None or not folder.config_path.is_file():
            return None, is_job_alive
        return folder.run_id, is_job_alive or is_alive(folder)


def renumbered(trial: Trial, number: int) -> Trial:
    """Returns a trial under another number."""
    return replace(trial, number=number)


class LedgerQueue:
    """Hands out each trial that has no result, at most once, and each that a search thinks of.

    Args:
        board: the sweep.
        display: shows how it goes.
        search: thinks of further trials; None where all are planned.
        after_end: called when a trial has ended, with what has come of all of them.
    """

    def __init__(
        self,
        board: Board,
        display: Display,
        search: Search | None = None,
        after_end: Callable[[Sequence[Outcome]], None] = lambda _outcomes: None,
    ) -> None:
        self._board = board
        self._display = display
        self._search = search
        self._after_end = after_end
        self._handed_out: set[str] = set()
        self._left: set[str] = set()
        self._is_waiting = False
        self._progress: dict[str, TrialProgress] = {}

    @property
    def is_done(self) -> bool:
        """Whether nothing will come any more."""
        return not self._is_waiting and (self._search is None or self._search.is_done)

    def next(self) -> Job | None:
        """Takes the next trial in the ledger's name, so that no other process does."""
        job = self._from_ledger()
        while job is None and self._search is not None and self._search.next():
            job = self._from_ledger()
        return job

    def on_end(self, job: Job, exit: Exit) -> None:
        """Writes down what came of a trial."""
        board = self._board
        end = read_end(job.trial, exit, board.folder)
        records = board.ledger.append(lambda _records: [end])
        del self._progress[job.trial.key]
        record = records[job.trial.key]
        if self._search is not None:
            self._search.on_end(record)
        outcomes = board.outcomes()
        if board.sweep.keep_checkpoints == "best":
            remove_checkpoints(outcomes, board.folder)
        self._after_end(outcomes)
        self._display.say(outcome_of(job.trial, record), len(records), describe_end(outcome_of(job.trial, record)))

    def on_tick(self) -> None:
        """Looks how far the trials are that run here."""
        self._board.presence.beat()
        is_due = self._display.is_due
        if self._search is not None or is_due:
            self._look()
        if is_due:
            self._display.show(self._rows())

    def _from_ledger(self) -> Job | None:
        self._is_waiting = False
        for record in self._board.ledger.read().values():
            if record.key in self._handed_out or record.key in self._left:
                continue
            job = self._take(record.key)
            if job is not None:
                return job
        return None

    def _take(self, key: str) -> Job | None:
        """Decides again with nobody else at the ledger, and takes the trial if it is to be run."""
        board = self._board
        taken: list[Decision] = []

        def claim(records: dict[str, TrialRecord]) -> list[Started]:
            decision = board.decide(records[key])
            taken.append(decision)
            started = Started(now(), key, board.presence.name, decision.micro_batch_tokens)
            return [started] if decision.action == "run" else []

        if board.decide(board.ledger.read()[key]).was_killed:
            self._write_down_unseen_end(key)
        records = board.ledger.append(claim)
        (decision,) = taken
        match decision.action:
            case "wait":
                self._is_waiting = True
            case "leave":
                # One that runs elsewhere is looked at again: whoever runs it may die.
                if records[key].state != "running":
                    self._left.add(key)
            case "run":
                self._handed_out.add(key)
                return self._job(records[key], decision)
        return None

    def _write_down_unseen_end(self, key: str) -> None:
        def end(records: dict[str, TrialRecord]) -> list[Ended]:
            is_so = self._board.decide(records[key]).was_killed
            return [unseen_end(records[key], self._board.folder)] if is_so else []

        record = self._board.ledger.append(end)[key]
        if self._search is not None and record.state in RESULTS:
            self._search.on_end(record)

    def _job(self, record: TrialRecord, decision: Decision) -> Job:
        board = self._board
        trial = board.trial(record)
        evaluation = trial.config.evaluation
        self._progress[record.key] = TrialProgress(
            lambda: find_trial_run(board.folder, record.key), evaluation.best_metric, evaluation.best_mode
        )
        board.mine.add(record.key)
        what = f"continues {decision.overrides[0]}" if decision.overrides else "started"
        if decision.micro_batch_tokens is not None:
            what += f", in micro-batches of {decision.micro_batch_tokens:,} tokens"
        num_trials = len(board.ledger.read())
        self._display.say(outcome_of(trial, record), num_trials, what)
        return Job(trial, decision.overrides)

    def _look(self) -> None:
        records = self._board.ledger.read()
        for key, progress in self._progress.items():
            for evaluation in progress.look():
                if self._search is not None:
                    self._search.on_evaluation(records[key], evaluation)

    def _rows(self) -> list[Row]:
        return [Row(outcome, self._progress.get(outcome.trial.key)) for outcome in self._board.outcomes()]


def remove_checkpoints(outcomes: Sequence[Outcome], sweep: RunFolder) -> None:
    """Removes the checkpoints of each trial that is done and is not the best so far; its best model stays."""
    best = best_outcome(outcomes)
    for outcome in outcomes:
        if best is None or outcome is best or outcome.state not in RESULTS or outcome.run_folder is None:
            continue
        with suppress(CheckpointError, OSError):
            folder = RunFolder.open(sweep.output_dir / "runs" / outcome.run_folder)
            if not is_alive(folder) and folder.checkpoints_path.is_dir():
                shutil.rmtree(folder.checkpoints_path)
