"""A sweep from its folder to its verdict: the parent run of its trials, in the run folders and in MLflow."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.errors import CheckpointError, SweepError, TrackingError
from recipe_exp.planning.device import visible_gpus as reported_gpus
from recipe_exp.reports.verdict_table import print_verdict
from recipe_exp.signals import ENDING_SIGNALS
from recipe_exp.sweeping.decisions import is_settled
from recipe_exp.sweeping.executors import Cluster, Executor, LocalExecutor
from recipe_exp.sweeping.grid import Trial, plan_trials, swept_values
from recipe_exp.sweeping.ledger import RESULTS, TrialRecord
from recipe_exp.sweeping.live import Display
from recipe_exp.sweeping.opening import Meaning, ledger_of, open_sweep
from recipe_exp.sweeping.outcomes import Outcome
from recipe_exp.sweeping.presence import Presence
from recipe_exp.sweeping.queue import Board, LedgerQueue, Search
from recipe_exp.sweeping.report import write_summary
from recipe_exp.sweeping.slots import Machine, cores_per_slot, visible_gpus
from recipe_exp.sweeping.trials import Queue, StopSignals, TrialPool
from recipe_exp.sweeping.verdict import REPORT_NAME, judge_trials, keep_verdict
from recipe_exp.tracking import (
    PARENT_RUN_ID_VARIABLE,
    PRUNING_VARIABLE,
    Journal,
    RunFolder,
    Status,
    pruning_folder,
    start_uploader,
)

SUMMARY_NAME = "sweep.json"


class SweepInterruptedError(SweepError):
    """A signal ended the sweep before all trials had finished."""

    def __init__(self, number: int, message: str) -> None:
        self.exit_code = ENDING_SIGNALS[signal.Signals(number)]
        super().__init__(f"stopped by {signal.Signals(number).name}: {message}")


@dataclass(frozen=True)
class Sweep:
    """What a command asks for.

    Attributes:
        config: of its first trial, with the settings of the sweep.
        meaning: what it is known by.
        trials: those that are planned from the start.
        make_search: makes what thinks of further trials, in the sweep's folder; None for a grid.
        num_slots: how many trials run at once.
        command: the command line.
        cluster: where they run; None for this machine.
    """

    config: ExperimentConfig
    meaning: Meaning
    trials: Sequence[Trial]
    num_slots: int
    command: Sequence[str]
    make_search: Callable[[Board], Search] | None = None
    cluster: Cluster | None = None

    @property
    def cores(self) -> int:
        """CPU threads of a trial, if the sweep begins now."""
        return cores_per_slot(self.num_slots) if self.cluster is None else self.cluster.cores


def run_trials(sweep: Sweep) -> list[Outcome]:
    """Runs what a sweep still lacks, prints the table of its trials and returns what came of all of them.

    The sweep has a folder under `output_dir/sweeps/` with `run.json`, its ledger, a journal, the log of each trial and
    `sweep.json`. Trials find its run id in the environment and become its children. Several processes may run the same
    sweep: each trial is run by one of them, and the record is kept by the one that came first.

    Raises:
        SweepError: if a trial that this process ran has no result; 130 or 143 is its exit code if a signal was the
            reason.
    """
    config = sweep.config
    with StopSignals() as stop:
        folder = open_sweep(Path(config.output_dir), sweep.meaning, config.sweep, sweep.cores, sweep.command)
        with Presence(folder.path) as presence:
            board = _board(sweep, folder, presence)
            fault = _run(sweep, board, stop)
        outcomes = board.outcomes()
    if outcomes:
        print()
        print_verdict(Console(highlight=False), judge_trials(outcomes, folder.output_dir))
        if (folder.path / REPORT_NAME).exists():
            print(f"report {folder.path / REPORT_NAME}")
    _send_rest(sweep, folder, board)
    _raise_unless_finished(sweep, board, outcomes, stop)
    if fault is not None:
        raise fault
    return outcomes


def _board(sweep: Sweep, folder: RunFolder, presence: Presence) -> Board:
    def look_up(record: TrialRecord) -> Trial:
        (trial,) = plan_trials([record.overrides], check_files=False)
        return Trial(record.number, trial.overrides, dict(record.varying), trial.config, record.key)

    board = Board(folder, ledger_of(folder), presence, sweep.config.sweep, {}, look_up)
    board.plan(sweep.trials)
    return board


def _run(sweep: Sweep, board: Board, stop: StopSignals) -> Exception | None:
    """Runs the trials and keeps the record; returns what the disk or the tracker refused, if the trials were run."""
    try:
        with _record(sweep, board) as keeper:
            _announce(sweep, board)
            _run_pool(sweep, board, stop, keeper)
            keeper.is_stopped = stop.first is not None
    except (OSError, TrackingError) as error:
        if not board.mine:
            raise
        return error
    return None


def _run_pool(sweep: Sweep, board: Board, stop: StopSignals, keeper: _Keeper) -> None:
    cores = board.folder.read_record().get("cores_per_trial") or sweep.cores
    environment = {PARENT_RUN_ID_VARIABLE: board.folder.run_id}
    if sweep.config.sweep.pruner != "none":
        environment[PRUNING_VARIABLE] = str(pruning_folder(board.folder))
    with _executor(sweep, board) as executor, Display(sweep.config.evaluation.best_metric, sweep.num_slots) as display:
        pool = TrialPool(_machine(sweep, int(cores)), executor, board.folder.path, environment, stop)
        search = sweep.make_search(board) if sweep.make_search is not None else None
        queue: Queue = LedgerQueue(board, display, search, keeper.after_end)
        pool.run(queue)


def _executor(sweep: Sweep, board: Board) -> AbstractContextManager[Executor]:
    if sweep.cluster is None:
        return nullcontext(LocalExecutor())
    return sweep.cluster.open(board.folder.path, board.presence.name)


def _machine(sweep: Sweep, cores: int) -> Machine:
    if sweep.cluster is not None or sweep.config.hardware.device == "cpu" or sweep.num_slots == 1:
        return Machine(sweep.num_slots, cores)
    memory = min((gpu.memory_bytes for gpu in reported_gpus()), default=0)
    return Machine(sweep.num_slots, cores, visible_gpus(), memory)


def _announce(sweep: Sweep, board: Board) -> None:
    records = board.ledger.read()
    num_done = sum(record.state in RESULTS for record in records.values())
    at_once = f", {sweep.num_slots} at once" if sweep.num_slots > 1 else ""
    done = f", {num_done} of them done already" if num_done else ""
    sought = f", {sweep.config.sweep.num_trials} in all" if sweep.make_search is not None else ""
    count = f"{len(records)} trials{sought}{done}{at_once}"
    print(f"sweep {board.folder.run_id}: {count}; logs in {board.folder.path}", flush=True)
    if num_done:
        print("sweep.new=true would run all of them again", flush=True)


@dataclass
class _Keeper:
    """The record of a sweep, kept by one of the processes that work on it.

    Attributes:
        is_grid: whether all trials were planned from the start.
        journal: None in the others.
        is_stopped: whether a signal ended this process's part.
        is_fresh: whether nothing had been recorded before.
    """

    board: Board
    is_grid: bool
    journal: Journal | None = None
    is_stopped: bool = False
    is_fresh: bool = False
    held: ExitStack = field(default_factory=ExitStack)

    def after_end(self, outcomes: Sequence[Outcome]) -> None:
        """Replaces `sweep.json`."""
        path = self.board.folder.path / SUMMARY_NAME
        trials = [outcome.trial for outcome in outcomes]
        ended = {outcome.trial.number: outcome for outcome in outcomes if outcome.state != "not started"}
        try:
            write_summary(path, self.board.folder.run_id, trials, ended)
        except OSError as error:
            print(f"warning: {path}: {error.strerror}; the sweep goes on", flush=True)

    def take(self) -> bool:
        """Becomes the one that keeps the record, unless another process is."""
        if self.journal is None:
            with suppress(CheckpointError):
                self.held.enter_context(self.board.folder.lock())
                self.is_fresh = not self.board.folder.journal_path.exists()
                self.journal = Journal(self.board.folder)
        return self.journal is not None

    def status(self) -> Status:
        """How the sweep stands."""
        records = self.board.ledger.read()
        is_whole = self.is_grid or not self.is_stopped
        if is_settled(records) and is_whole:
            return "finished"
        is_alive = self.board.presence.is_alive
        if any(record.state == "running" and is_alive(record.owner) for record in records.values()):
            return "running"
        return "interrupted" if self.is_stopped else "failed"


@contextmanager
def _record(sweep: Sweep, board: Board) -> Iterator[_Keeper]:
    """Keeps the sweep's record and leaves it with its true status, whatever happens."""
    keeper = _Keeper(board, sweep.make_search is None)
    with keeper.held:
        if keeper.take():
            _begin_record(sweep, keeper)
        status: Status = "failed"
        try:
            yield keeper
            status = keeper.status()
            _end_record(sweep, keeper)
            # Another process that ended meanwhile found the record taken and left it to this one.
            while status == "running" and (now := keeper.status()) != status:
                status = now
                _end_record(sweep, keeper)
        except OSError:
            status = "failed"
            raise
        finally:
            if keeper.journal is not None:
                # Where another process still runs trials, it takes the record up at its own end.
                keeper.journal.status("interrupted" if status == "running" else status)
                keeper.journal.close()


def _begin_record(sweep: Sweep, keeper: _Keeper) -> None:
    assert keeper.journal is not None
    tracking = sweep.config.tracking
    if tracking.enabled:
        keeper.board.uploader = start_uploader(
            keeper.board.folder, tracking.uri, tracking.experiment, system_metrics=False
        )
    keeper.journal.status("running")
    keeper.journal.tags(_tags(sweep))
    # Parameters are written once, and a sweep that is extended has further values.
    if keeper.is_fresh and sweep.trials:
        keeper.journal.params({key: ", ".join(found) for key, found in swept_values(sweep.trials).items()})


def _end_record(sweep: Sweep, keeper: _Keeper) -> None:
    if keeper.journal is None and keeper.take():
        _begin_record(sweep, keeper)
    if keeper.journal is None:
        return
    folder = keeper.board.folder
    keeper.after_end(keeper.board.outcomes())
    for name in (SUMMARY_NAME, keeper.board.ledger.path.name):
        if (folder.path / name).exists():
            keeper.journal.artifact(folder.path / name)
    outcomes = keeper.board.outcomes()
    if outcomes:
        verdict = judge_trials(outcomes, folder.output_dir)
        keep_verdict(verdict, folder, keeper.journal, sweep.config.description)


def _tags(sweep: Sweep) -> dict[str, str]:
    config = sweep.config
    tags = {
        "recipe_exp.num_trials": str(config.sweep.num_trials or len(sweep.trials)),
        "recipe_exp.slots": str(sweep.num_slots),
        "recipe_exp.swept": ", ".join(sweep.meaning.swept),
    }
    tags |= {f"tag.{tag}": "true" for tag in config.tags}
    if config.description is not None:
        tags["mlflow.note.content"] = config.description
    return tags


def _send_rest(sweep: Sweep, folder: RunFolder, board: Board) -> None:
    uploader = board.uploader
    if uploader is not None and not uploader.finish(sweep.config.tracking.flush_timeout_seconds):
        print(
            f"the sweep's record is not sent yet; python -m recipe_exp task=sync task.runs=[{folder.run_id}] sends it"
        )


def _raise_unless_finished(sweep: Sweep, board: Board, outcomes: Sequence[Outcome], stop: StopSignals) -> None:
    """Raises for what this process ran or left; what runs in other processes is their concern."""
    is_elsewhere = board.presence.is_alive
    records = board.ledger.read()
    number, count = board.sweep.part
    unfinished = [
        outcome
        for outcome in outcomes
        if outcome.state not in RESULTS
        and (outcome.trial.number - 1) % count == number - 1
        and not (outcome.state == "running" and is_elsewhere(records[outcome.trial.key].owner))
    ]
    # What a search has not drawn is missing only where a signal ended it.
    wanted = max(sweep.config.sweep.num_trials or 0, len(outcomes)) if stop.first is not None else len(outcomes)
    num_missing = len(unfinished) + wanted - len(outcomes)
    if num_missing == 0:
        return
    message = (
        f"{num_missing} of {wanted} trials did not finish; the same command runs them again; their logs are in "
        f"{board.folder.path}"
    )
    raise SweepError(message) if stop.first is None else SweepInterruptedError(stop.first, message)
