"""The report that a training run ends with."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.data.tokens.cache import TokenCache
from recipe_exp.errors import DataError
from recipe_exp.evaluation.evaluator import decoding_of
from recipe_exp.evaluation.scoring import Scorer
from recipe_exp.evaluation.untuned import UNTUNED, read_untuned, untuned_path
from recipe_exp.files import reason_of, write_atomically
from recipe_exp.metrics.predictions import read_predictions
from recipe_exp.reports.evaluation import render_evaluation
from recipe_exp.tasks.evaluation_report import (
    Evaluated,
    as_json,
    best_predictions,
    make_report,
    read_history,
    report_content,
)
from recipe_exp.tasks.facts import evaluation_facts
from recipe_exp.tasks.running.predictions import keep_best_and_last
from recipe_exp.tasks.running.session import RunSession
from recipe_exp.tasks.summary import REPORT_FILE

NUMBERS_FILE = "evaluation.json"


def write_run_report(session: RunSession, config: ExperimentConfig, cache: TokenCache, console: Console) -> None:
    """Writes `report.html` and `evaluation.json` of the best step into the run folder, and has the tracker get them.

    A disk that refuses costs the report, not the run.

    Args:
        session: of the run.
        config: of the run.
        cache: its data.
        console: told what is missing.
    """
    folder = session.folder
    kept = best_predictions(folder)
    if kept is None:
        return
    step, path = kept
    try:
        keep_best_and_last(path.parent, step)
        predictions = read_predictions(path)
        scorer = Scorer(cache.prepared, cache.folder.parent)
        decoding = decoding_of(config.evaluation, config.data.max_source_tokens)
        asked = [(each.prompt, each.reference) for each in predictions]
        before = read_untuned(untuned_path(scorer.folder, config.model, decoding, asked))
        loss = dict(read_history(folder.metrics_path).get("eval/loss", ())).get(float(step))
        evaluated = Evaluated(
            name=str(folder.read_record()["run_name"]),
            facts={"run": folder.run_id, **evaluation_facts(config, "validation", len(predictions))},
            predictions=predictions,
            loss=loss,
            scorer=scorer,
            output_dir=Path(config.output_dir),
            further={UNTUNED: before} if before is not None else {},
            run=folder,
            step=step,
        )
        report = make_report(evaluated)
        for name, text in ((REPORT_FILE, render_evaluation(report)), (NUMBERS_FILE, as_json(report_content(report)))):
            write_atomically(folder.path / name, text.encode())
            session.journal.artifact(folder.path / name)
    except (OSError, DataError) as error:
        console.print(f"warning: no report: {reason_of(error)}", style="yellow", highlight=False)
