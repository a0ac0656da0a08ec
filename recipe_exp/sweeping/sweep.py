"""A sweep from its folder to its verdict: the parent run of its trials, in the run folders and in MLflow."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

from recipe_exp.config.relevance import short_names
from recipe_exp.errors import SweepError, TrackingError
from recipe_exp.signals import ENDING_SIGNALS
from recipe_exp.sweeping.grid import Trial, swept_values
from recipe_exp.sweeping.report import Outcome, describe_end, print_verdict, read_outcome, write_summary
from recipe_exp.sweeping.trials import Ended, StopSignals, TrialPool
from recipe_exp.tracking import PARENT_RUN_ID_VARIABLE, Journal, RunFolder, Status, start_uploader

SUMMARY_NAME = "sweep.json"


class SweepInterruptedError(SweepError):
    """A signal ended the sweep before all trials had finished."""

    def __init__(self, number: int, message: str) -> None:
        self.exit_code = ENDING_SIGNALS[signal.Signals(number)]
        super().__init__(f"stopped by {signal.Signals(number).name}: {message}")


def run_trials(trials: Sequence[Trial], num_slots: int, command: Sequence[str]) -> list[Outcome]:
    """Runs the trials of one sweep, prints their table and returns what came of them.

    The sweep has a folder under `output_dir/sweeps/` with `run.json`, a journal, the log of each trial and
    `sweep.json`. Trials find its run id in the environment and become its children.

    Args:
        trials: at least one.
        num_slots: how many run at once.
        command: the command line that started the sweep.

    Raises:
        SweepError: if a trial did not finish; 130 or 143 is its exit code if a signal was the reason.
    """
    config = trials[0].config
    with StopSignals() as stop:
        name = config.run_name or " x ".join(short_names(trials[0].varying).values()) or "sweep"
        folder = RunFolder.create(Path(config.output_dir), run_name=name, kind="sweep", command=command)
        with folder.lock():
            journal = Journal(folder)
            tracking = config.tracking
            uploader = (
                start_uploader(folder, tracking.uri, tracking.experiment, system_metrics=False)
                if tracking.enabled
                else None
            )
            outcomes: list[Outcome] = []
            fault: Exception | None = None
            try:
                _record_trials(folder, journal, trials, min(num_slots, len(trials)), stop, outcomes)
            except (OSError, TrackingError) as error:
                if not outcomes:
                    raise
                fault = error
    print_verdict(outcomes)
    if uploader is not None and not uploader.finish(tracking.flush_timeout_seconds):
        print(
            f"the sweep's record is not sent yet; python -m recipe_exp task=sync task.runs=[{folder.run_id}] sends it"
        )
    _raise_unless_finished(outcomes, stop, folder)
    if fault is not None:
        raise fault
    return outcomes


def _record_trials(
    folder: RunFolder,
    journal: Journal,
    trials: Sequence[Trial],
    num_slots: int,
    stop: StopSignals,
    outcomes: list[Outcome],
) -> None:
    """Runs the trials and leaves the sweep's record with its true status, whatever happens.

    `outcomes` gets what came of the trials once they have ended, even if the disk then refuses the record.
    """
    status: Status = "failed"
    try:
        journal.status("running")
        journal.params({key: ", ".join(values) for key, values in swept_values(trials).items()})
        journal.tags(_tags(trials, num_slots))
        outcomes += _run_pool(folder, trials, num_slots, stop)
        if all(outcome.status == "finished" for outcome in outcomes):
            status = "finished"
        elif stop.first is not None:
            status = "interrupted"
        write_summary(folder.path / SUMMARY_NAME, folder.run_id, trials, {one.trial.number: one for one in outcomes})
        journal.artifact(folder.path / SUMMARY_NAME)
    except OSError:
        status = "failed"
        raise
    finally:
        journal.status(status)
        journal.close()


def _run_pool(folder: RunFolder, trials: Sequence[Trial], num_slots: int, stop: StopSignals) -> list[Outcome]:
    outcomes: dict[int, Outcome] = {}
    summary = folder.path / SUMMARY_NAME

    def on_start(trial: Trial) -> None:
        _say(trial, len(trials), "started")

    def on_end(trial: Trial, ended: Ended) -> None:
        outcomes[trial.number] = read_outcome(trial, ended, folder)
        try:
            write_summary(summary, folder.run_id, trials, outcomes)
        except OSError as error:
            print(f"warning: {summary}: {error.strerror}; the sweep goes on", flush=True)
        _say(trial, len(trials), describe_end(outcomes[trial.number]))

    at_once = f", {num_slots} at once" if num_slots > 1 else ""
    print(f"sweep {folder.run_id}: {len(trials)} trials{at_once}; logs in {folder.path}", flush=True)
    TrialPool(num_slots, folder.path, {PARENT_RUN_ID_VARIABLE: folder.run_id}, stop).run(trials, on_start, on_end)
    for trial in trials:
        outcomes.setdefault(trial.number, Outcome(trial, "not started"))
    return [outcomes[trial.number] for trial in trials]


def _say(trial: Trial, num_trials: int, what: str) -> None:
    name = f" ({trial.name})" if trial.name else ""
    print(f"trial {trial.number}/{num_trials}{name} {what}", flush=True)


def _tags(trials: Sequence[Trial], num_slots: int) -> dict[str, str]:
    config = trials[0].config
    tags = {
        "recipe_exp.num_trials": str(len(trials)),
        "recipe_exp.slots": str(num_slots),
        "recipe_exp.swept": ", ".join(trials[0].varying),
    }
    tags |= {f"tag.{tag}": "true" for tag in config.tags}
    if config.description is not None:
        tags["mlflow.note.content"] = config.description
    return tags


def _raise_unless_finished(outcomes: Sequence[Outcome], stop: StopSignals, folder: RunFolder) -> None:
    unfinished = [outcome for outcome in outcomes if outcome.status != "finished"]
    if not unfinished:
        return
    message = f"{len(unfinished)} of {len(outcomes)} trials did not finish; their logs are in {folder.path}"
    raise SweepError(message) if stop.first is None else SweepInterruptedError(stop.first, message)
