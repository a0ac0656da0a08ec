"""The verdict on a sweep: read from its trials' run folders, kept in the sweep's folder and with its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from recipe_exp.errors import CheckpointError, ConfigError
from recipe_exp.files import write_atomically
from recipe_exp.reports.html import as_html
from recipe_exp.reports.plots import plot_as_svg
from recipe_exp.reports.run_summary import RunSummary, read_summary
from recipe_exp.reports.verdict import Verdict, judge
from recipe_exp.reports.verdict_page import figures, verdict_page
from recipe_exp.reports.verdict_text import findings, headline
from recipe_exp.tracking import Journal, RunFolder

REPORT_NAME = "report.html"
_FIGURES = "figures"


@dataclass(frozen=True)
class TrialResult:
    """What a sweep knows of one trial.

    Attributes:
        name: what differs.
        state: how it stands.
        varying: its values of what was swept, as they were typed.
        run_folder: its run folder; None if it made none.
        seconds: of its processes; None if none ended.
        error: why it has no result, in one line.
    """

    name: str
    state: str
    varying: Mapping[str, str]
    run_folder: Path | None
    seconds: float | None
    error: str | None


def judge_trials(results: Sequence[TrialResult]) -> Verdict:
    """Returns the verdict on trials, from what their run folders say and what the sweep saw of them."""
    swept = list(dict.fromkeys(key for result in results for key in result.varying))
    return judge([_summary(result) for result in results], swept)


def keep_verdict(verdict: Verdict, sweep: RunFolder, journal: Journal) -> None:
    """Writes the report and its figures into the sweep's folder, and gives them and the verdict to its record.

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
    journal.tags({"recipe_exp.verdict": headline(verdict), "mlflow.note.content": _note(verdict)})
    if verdict.best is not None:
        journal.tags({"recipe_exp.best_run": verdict.best.run.run_id or ""})
        journal.metrics(0, {f"best/{verdict.metric}": verdict.best.value})


def _summary(result: TrialResult) -> RunSummary:
    found = RunSummary(name=result.name, status=result.state)
    if result.run_folder is not None:
        with suppress(CheckpointError, ConfigError, OSError):
            found = read_summary(RunFolder.open(result.run_folder))
    return replace(
        found,
        name=result.name or found.name,
        status=result.state,
        reason=result.error or found.reason,
        varying=result.varying,
        seconds=result.seconds if result.seconds is not None else found.seconds,
    )


def _note(verdict: Verdict) -> str:
    """The verdict as MLflow's page of the run shows it."""
    return "\n".join([f"**{headline(verdict)}**", "", *(f"- {sentence}" for sentence in findings(verdict))])
