"""The report that ends a training run and every `task=evaluate`: anchors, other runs, one page and its numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipe_exp.errors import CheckpointError, DataError
from recipe_exp.evaluation.anchors import anchor_predictions
from recipe_exp.evaluation.scoring import Scorer
from recipe_exp.metrics import MetricResult
from recipe_exp.metrics.bootstrap import CONFIDENCE, NUM_RESAMPLES, bootstrap, summed_metrics
from recipe_exp.metrics.predictions import Prediction, read_predictions
from recipe_exp.reports.evaluation import EvaluationReport
from recipe_exp.reports.run_summary import read_series
from recipe_exp.tracking import RunFolder, list_runs

PREDICTIONS_FOLDER = "predictions"
MAX_OTHER_RUNS = 5
_METRICS_SHOWN = ("train/loss", "train/learning_rate")


@dataclass(frozen=True)
class Evaluated:
    """What was evaluated.

    Attributes:
        name: of the model, for people.
        facts: what it is and on what, by label.
        predictions: what it wrote.
        loss: of the examples; None where it was not measured.
        scorer: of the data whose training split gives the anchors.
        further: other systems on the same examples, by name, such as the untuned model.
        run: the run folder; None for a model without one.
        output_dir: where other runs are looked for.
        step: of the weights; None where that is unknown.
    """

    name: str
    facts: Mapping[str, str]
    predictions: Sequence[Prediction]
    loss: float | None
    scorer: Scorer
    output_dir: Path
    further: Mapping[str, Sequence[Prediction]] = field(default_factory=dict)
    run: RunFolder | None = None
    step: int | None = None


def make_report(evaluated: Evaluated) -> EvaluationReport:
    """Returns everything that the page shows, scored."""
    scorer, predictions = evaluated.scorer, evaluated.predictions
    anchors = {**anchor_predictions(predictions, scorer.prepared, scorer.folder), **evaluated.further}
    return EvaluationReport(
        name=evaluated.name,
        facts=evaluated.facts,
        predictions=predictions,
        result=scorer.score(predictions, evaluated.loss),
        anchors={name: scorer.score_once(texts) for name, texts in anchors.items()},
        others=_others(evaluated),
        history=read_history(evaluated.run.metrics_path) if evaluated.run is not None else {},
        step=evaluated.step,
    )


def report_content(report: EvaluationReport) -> dict[str, Any]:
    """Returns the numbers of a report as plain data: every metric with its interval, and the anchors'."""
    intervals = bootstrap(summed_metrics(report.result))
    metrics: dict[str, Any] = {}
    for name, value in report.result.scores.items():
        metrics[name] = {"value": _finite(value)}
        if name in intervals:
            metrics[name] |= {"low": _finite(intervals[name].low), "high": _finite(intervals[name].high)}
    return {
        "name": report.name,
        "facts": dict(report.facts),
        "step": report.step,
        "num_examples": len(report.predictions),
        "confidence": CONFIDENCE,
        "num_resamples": NUM_RESAMPLES,
        "metrics": metrics,
        "anchors": {name: _plain(result) for name, result in report.anchors.items()},
        "other_runs": {name: _plain(result) for name, result in report.others.items()},
    }


def as_json(content: Mapping[str, Any]) -> str:
    """Returns it as a file of its own."""
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read_history(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Returns the finite values of the metrics that a report shows, by name, over steps."""
    history: dict[str, list[tuple[float, float]]] = {}
    for name, series in read_series(path).items():
        finite = [(float(step), value) for step, value in series if math.isfinite(value)]
        if finite and (name in _METRICS_SHOWN or name.startswith("eval/")):
            history[name] = finite
    return history


def best_predictions(folder: RunFolder) -> tuple[int, Path] | None:
    """Returns step and file of a run's predictions: those of its best step if they are there, else the last."""
    found = {_step_of(path): path for path in (folder.path / PREDICTIONS_FOLDER).glob("step-*.jsonl")}
    if not found:
        return None
    best = (folder.read_record().get("best") or {}).get("step")
    step = best if best in found else max(found)
    return step, found[step]


def _step_of(path: Path) -> int:
    digits = path.stem.removeprefix("step-")
    return int(digits) if digits.isdecimal() else -1


def _others(evaluated: Evaluated) -> dict[str, MetricResult]:
    """Returns the newest other runs that wrote recipes for the same examples."""
    references = [each.reference for each in evaluated.predictions]
    found: dict[str, MetricResult] = {}
    for folder in list_runs(evaluated.output_dir, kind="run"):
        if len(found) == MAX_OTHER_RUNS:
            break
        if evaluated.run is not None and folder.path == evaluated.run.path:
            continue
        try:
            kept = best_predictions(folder)
            predictions = read_predictions(kept[1]) if kept is not None else []
            name = f"{folder.read_record().get('run_name', folder.path.name)} ({folder.run_id})"
        except (DataError, CheckpointError):
            continue
        if [each.reference for each in predictions] == references:
            found[name] = evaluated.scorer.score_once(predictions)
    return found


def _plain(result: MetricResult) -> dict[str, float | None]:
    return {name: _finite(value) for name, value in result.scores.items()}


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None
