"""`task=evaluate`: a model scored on recipes, its run's own or others, or recipes that are written already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from rich.table import Table

from recipe_exp.config.evaluation import EvaluationConfig
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.hardware import HardwareConfig
from recipe_exp.config.task import EvaluateTask
from recipe_exp.data.preparation.prepared import PreparedData
from recipe_exp.data.split import SPLITS, Split
from recipe_exp.data.tokens.cache import TokenCache, open_or_prepare
from recipe_exp.data.tokens.tokenizer import RecipeTokenizer
from recipe_exp.evaluation.evaluator import EvaluationResult, Evaluator
from recipe_exp.evaluation.generation import BATCH_TOKENS
from recipe_exp.evaluation.scoring import Scorer
from recipe_exp.evaluation.untuned import UNTUNED, read_untuned, untuned_path, write_untuned
from recipe_exp.hardware.accelerator import create_accelerator
from recipe_exp.hardware.machinery import Machinery
from recipe_exp.metrics.bootstrap import bootstrap, summed_metrics
from recipe_exp.metrics.predictions import Prediction, encode_predictions, read_predictions
from recipe_exp.models.finetuned import load_model_folder
from recipe_exp.models.load import build_model
from recipe_exp.models.sequence_loss import SequenceLoss
from recipe_exp.reports.evaluation import EvaluationReport, interval_text, render_evaluation, value_text
from recipe_exp.tasks.building import generation_budget, resolve_machinery
from recipe_exp.tasks.data import open_data
from recipe_exp.tasks.evaluation_report import Evaluated, as_json, make_report, report_content
from recipe_exp.tasks.facts import evaluation_facts
from recipe_exp.tasks.places import PREDICTIONS_SUFFIX, cache_dir_of, is_model_folder
from recipe_exp.tasks.trained.loading import (
    config_beside,
    open_model,
    open_run,
    prepare_output,
    tell_of_quantized_base,
    warn_of_unknown_base,
    write_output,
)
from recipe_exp.tracking import RunFolder

SplitName = Literal["validation", "test", "train", "all"]


@dataclass(frozen=True)
class _Subject:
    """A model that is to be scored.

    Attributes:
        model: its folder.
        config: with which it is used.
        run: the run that it is the best model of; None for a folder.
    """

    model: Path
    config: ExperimentConfig
    run: RunFolder | None


def run(config: ExperimentConfig) -> int:
    """Scores, prints, saves, and returns the process's exit code."""
    task = config.task
    assert isinstance(task, EvaluateTask)
    console = Console(soft_wrap=True, markup=False)
    if task.run.endswith(PREDICTIONS_SUFFIX):
        output = Path(task.output or f"{Path(task.run).stem}-evaluation.json")
        prepare_output(output)
        evaluated = _of_file(config, task, console)
    else:
        subject = _subject(config, task.run)
        folder = subject.run.path if subject.run is not None else Path()
        output = Path(task.output) if task.output else folder / f"evaluation-{task.split}.json"
        prepare_output(output)
        evaluated = _of_model(subject, task, console)
    report = make_report(evaluated)
    console.print(evaluation_table(report))
    page, texts = output.with_suffix(".html"), output.with_suffix(".jsonl")
    write_output(output, as_json(report_content(report)))
    write_output(page, render_evaluation(report))
    if not (texts.exists() and task.run.endswith(PREDICTIONS_SUFFIX) and texts.samefile(task.run)):
        write_output(texts, encode_predictions(evaluated.predictions).decode())
    console.print(f"saved {output}", highlight=False)
    console.print(f"report {page}", highlight=False)
    return 0


def evaluate(
    reference: str | Path,
    *,
    split: SplitName = "validation",
    data_path: str | None = None,
    output_dir: str | Path = "outputs",
    evaluation: EvaluationConfig | None = None,
) -> EvaluationResult:
    """Returns the metrics of a run's best model and every generated recipe.

    Args:
        reference: a run folder, a run id or its start, a run name, `latest`, or the folder of a model.
        split: which held-out split; of other recipes too it is the share that a hash of the title holds out.
        data_path: other recipes than the run's own; None takes the run's data.
        output_dir: where runs are looked for.
        evaluation: how many examples and how recipes are generated; None takes the run's.
    """
    model, config = open_model(output_dir, str(reference))
    config = config.model_copy(update={"output_dir": str(output_dir), "hardware": HardwareConfig()})
    if evaluation is not None:
        config = config.model_copy(update={"evaluation": evaluation})
    if data_path is not None:
        data = config.data.model_copy(update={"format": "auto", "path": data_path, "max_examples": None})
        config = config.model_copy(update={"data": data})
    bench = _Bench.open(_Subject(model, config, None), split, Console(quiet=True))
    return bench.evaluate(model)


def evaluation_table(report: EvaluationReport) -> Table:
    """Returns every metric with its interval, beside the anchors."""
    intervals = bootstrap(summed_metrics(report.result))
    table = Table(box=None, pad_edge=False)
    table.add_column("metric")
    for name in ("value", "95 % interval", *(name.removeprefix("the ").removeprefix("a ") for name in report.anchors)):
        table.add_column(name, justify="right")
    for name, value in report.result.scores.items():
        interval = interval_text(intervals[name]).partition(" ")[2] if name in intervals else ""
        others = (
            value_text(anchor.scores[name]) if name in anchor.scores else "" for anchor in report.anchors.values()
        )
        table.add_row(name, value_text(value), interval, *others)
    return table


def _subject(config: ExperimentConfig, reference: str) -> _Subject:
    if is_model_folder(reference):
        model, stored = open_model(config.output_dir, reference)
        return _Subject(model, config_beside(stored, config), None)
    run = open_run(config.output_dir, reference)
    warn_of_unknown_base(run.model)
    return _Subject(run.model, config_beside(run.config, config), run.folder)


def _of_file(config: ExperimentConfig, task: EvaluateTask, console: Console) -> Evaluated:
    """Compares with training recipes where the command names some."""
    predictions = read_predictions(Path(task.run))
    cache_dir = cache_dir_of(config)
    prepared: PreparedData | None = None
    if config.data.path is not None:
        console.print("reading the recipes that anchors are drawn from", highlight=False)
        prepared = open_or_prepare(config.data, cache_dir=cache_dir, num_workers=1)
    return Evaluated(
        name=Path(task.run).name,
        facts={"predictions": task.run, "recipes": f"{len(predictions):,}"},
        predictions=predictions,
        loss=None,
        scorer=Scorer(prepared, cache_dir),
        output_dir=Path(config.output_dir),
    )


def _of_model(subject: _Subject, task: EvaluateTask, console: Console) -> Evaluated:
    config = subject.config
    bench = _Bench.open(subject, task.split, console)
    result = bench.evaluate(subject.model)
    best = (subject.run.read_record().get("best") or {}) if subject.run is not None else {}
    record = subject.run.read_record() if subject.run is not None else {}
    return Evaluated(
        name=str(record.get("run_name", subject.model.name)),
        facts={
            **({"run": subject.run.run_id} if subject.run is not None else {"folder": str(subject.model)}),
            **evaluation_facts(config, task.split, len(result.predictions)),
        },
        predictions=result.predictions,
        loss=result.metrics["eval/loss"],
        scorer=bench.evaluator.scorer,
        output_dir=Path(config.output_dir),
        further=bench.untuned(),
        run=subject.run,
        step=best.get("step"),
    )


@dataclass(frozen=True)
class _Bench:
    """What models are evaluated with.

    Attributes:
        config: of the model.
        cache: the data.
        evaluator: of the splits.
        machinery: the resolved machine.
    """

    config: ExperimentConfig
    cache: TokenCache
    evaluator: Evaluator
    machinery: Machinery

    @classmethod
    def open(cls, subject: _Subject, split: SplitName, console: Console) -> _Bench:
        config = subject.config
        cache = open_data(config, console, tokenizer=RecipeTokenizer.from_pretrained(str(subject.model)))
        machinery = resolve_machinery(config, cache, auto_tokens=BATCH_TOKENS)
        accelerator = create_accelerator(
            device=machinery.device, precision=machinery.precision, num_threads=machinery.num_threads
        )
        splits: Sequence[Split] = SPLITS if split == "all" else (split,)
        evaluator = Evaluator(
            cache,
            splits,
            config.evaluation,
            max_source_tokens=config.data.max_source_tokens,
            batch_tokens=machinery.micro_batch_tokens,
            generation_tokens=generation_budget(config, machinery, is_training=False),
            accelerator=accelerator,
        )
        return cls(config, cache, evaluator, machinery)

    def evaluate(self, model: Path) -> EvaluationResult:
        tell_of_quantized_base(model, self.machinery.precision)
        network = load_model_folder(
            model,
            precision=self.machinery.precision,
            attention=self.machinery.attention,
            as_trained=True,
            device=self.machinery.device,
        )
        return self.evaluator.evaluate(self.evaluator.accelerator.prepare(SequenceLoss(network)))

    def untuned(self) -> dict[str, list[Prediction]]:
        """Returns what the pretrained model writes, if it is known or asked for."""
        if not self.config.model.pretrained:
            return {}
        evaluator = self.evaluator
        path = untuned_path(evaluator.scorer.folder, self.config.model, evaluator.decoding, evaluator.asked())
        found = read_untuned(path)
        if found is None and self.config.evaluation.untuned_base:
            network = build_model(self.config.model, dtype=torch.float32, attention=self.machinery.attention)
            network.to(self.machinery.device)
            write_untuned(path, lambda: self.evaluator.predict(network), is_main=True)
            found = read_untuned(path)
        return {} if found is None else {UNTUNED: found}
