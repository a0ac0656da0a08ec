"""The verdict on a sweep: read from its trials' run folders, kept in the sweep's folder and with its record."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from recipe_exp.config.relevance import flatten
from recipe_exp.errors import CheckpointError, ConfigError
from recipe_exp.files import write_atomically
from recipe_exp.reports.html import as_html
from recipe_exp.reports.plots import plot_as_svg
from recipe_exp.reports.run_summary import Best, RunSummary, read_summary
from recipe_exp.reports.verdict import Verdict, judge
from recipe_exp.reports.verdict_page import figures, verdict_page
from recipe_exp.reports.verdict_text import findings, headline
from recipe_exp.sweeping.outcomes import Outcome
from recipe_exp.tracking import Journal, RunFolder

REPORT_NAME = "report.html"
_FIGURES = "figures"


def judge_trials(outcomes: Sequence[Outcome], output_dir: Path) -> Verdict:
    """Returns the verdict on trials, from what their run folders say and what the sweep saw of them.

    Args:
        outcomes: of all trials.
        output_dir: where their run folders are.
    """
    swept = list(dict.fromkeys(key for outcome in outcomes for key in outcome.trial.varying))
    return judge([_summary(outcome, output_dir) for outcome in outcomes], swept)


def keep_verdict(verdict: Verdict, sweep: RunFolder, journal: Journal, description: str | None = None) -> None:
    """Writes the report and its figures into the sweep's folder, and gives them and the verdict to its record.

    Args:
        verdict: on all trials.
        sweep: folder of the sweep.
        journal: of its record.
        description: of the sweep, which stays above the verdict.

    Raises:
        OSError: if the disk refuses.
    """
    title = f"Sweep of {sweep.read_record().get('run_name', sweep.run_id)}"
    report = sweep.path / REPORT_NAME
    write_atomically(report, as_html(verdict_page(verdict, title)).encode())
    journal.artifact(report)
    drawn = figures(verdict)
    (sweep.path / _FIGURES).mkdir(exist_ok=True)
    for name, plot in drawn.items():
        write_atomically(sweep.path / _FIGURES / f"{name}.svg", plot_as_svg(plot).encode())
    if drawn:
        journal.artifact(sweep.path / _FIGURES)
    journal.tags({"recipe_exp.verdict": headline(verdict), "mlflow.note.content": _note(verdict, description)})
    if verdict.best is not None:
        journal.tags({"recipe_exp.best_run": verdict.best.run.run_id or ""})
        journal.metrics(0, {f"best/{verdict.metric}": verdict.best.value})


def _summary(outcome: Outcome, output_dir: Path) -> RunSummary:
    """What the sweep saw of a trial goes before what its folder says: a killed run has not said how it ended."""
    trial, best = outcome.trial, outcome.best
    settings = dict(flatten(trial.config.model_dump(mode="json")))
    found = RunSummary(name=trial.name, status=outcome.state, settings=settings, run_id=outcome.run_id)
    if outcome.run_folder is not None:
        with suppress(CheckpointError, ConfigError, OSError):
            found = read_summary(RunFolder.open(output_dir / "runs" / outcome.run_folder))
    return replace(
        found,
        name=trial.name or f"trial {trial.number}",
        status=outcome.state,
        reason=outcome.error or found.reason,
        step=outcome.step,
        best=found.best or (Best(best.metric, best.value, best.step) if best is not None else None),
        varying=trial.varying,
        seconds=outcome.seconds if outcome.exit_code is not None else found.seconds,
    )


def _note(verdict: Verdict, description: str | None) -> str:
    """The verdict as MLflow's page of the run shows it."""
    above = [] if description is None else [description, ""]
    found = [f"- {sentence}" for sentence in findings(verdict)]
    return "\n".join([*above, f"**{headline(verdict)}**", "", *found])
