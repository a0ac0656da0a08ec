"""`task=evaluate`: a run's best model scored on held-out recipes, its own or others."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from recipe_exp.config.evaluation import EvaluationConfig
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.hardware import HardwareConfig
from recipe_exp.config.task import EvaluateTask
from recipe_exp.data.split import Split
from recipe_exp.data.tokens.tokenizer import RecipeTokenizer
from recipe_exp.evaluation.evaluator import EvaluationResult, Evaluator
from recipe_exp.evaluation.generation import BATCH_TOKENS
from recipe_exp.hardware.accelerator import create_accelerator
from recipe_exp.models.finetuned import load_model_folder
from recipe_exp.models.sequence_loss import SequenceLoss
from recipe_exp.tasks.building import generation_budget, open_data, resolve_machinery
from recipe_exp.tasks.summary import metrics_table
from recipe_exp.tasks.trained.loading import (
    StoredRun,
    open_run,
    prepare_output,
    run_config,
    tell_of_quantized_base,
    warn_of_unknown_base,
    write_output,
)


def run(config: ExperimentConfig) -> int:
    """Scores, prints, saves, and returns the process's exit code."""
    task = config.task
    assert isinstance(task, EvaluateTask)
    stored = open_run(config.output_dir, task.run)
    warn_of_unknown_base(stored.model)
    config = run_config(stored, config)
    output = Path(task.output) if task.output else stored.folder.path / f"evaluation-{task.split}.json"
    prepare_output(output)
    console = Console(soft_wrap=True, markup=False)
    result = _evaluate(config, stored, task.split, console)
    content = {
        "run_id": stored.folder.run_id,
        "split": task.split,
        "data_path": config.data.path,
        "metrics": result.metrics,
        "predictions": [asdict(sample) for sample in result.predictions],
    }
    console.print(metrics_table(result.metrics))
    write_output(output, json.dumps(content, indent=1, ensure_ascii=False))
    console.print(f"saved {output}", highlight=False)
    return 0


def evaluate(
    reference: str | Path,
    *,
    split: Split = "validation",
    data_path: str | None = None,
    output_dir: str | Path = "outputs",
    evaluation: EvaluationConfig | None = None,
) -> EvaluationResult:
    """Returns the metrics of a run's best model and every generated recipe.

    Args:
        reference: a run folder, a run id or its start, a run name, or `latest`.
        split: which held-out split; of other recipes too it is the share that a hash of the title holds out.
        data_path: other recipes than the run's own; None takes the run's data.
        output_dir: where runs are looked for.
        evaluation: how many examples and how recipes are generated; None takes the run's.
    """
    stored = open_run(output_dir, str(reference))
    config = stored.config.model_copy(update={"output_dir": str(output_dir), "hardware": HardwareConfig()})
    if evaluation is not None:
        config = config.model_copy(update={"evaluation": evaluation})
    if data_path is not None:
        data = config.data.model_copy(update={"format": "auto", "path": data_path, "max_examples": None})
        config = config.model_copy(update={"data": data})
    return _evaluate(config, stored, split, Console(quiet=True))


def _evaluate(config: ExperimentConfig, stored: StoredRun, split: Split, console: Console) -> EvaluationResult:
    cache = open_data(config, console, tokenizer=RecipeTokenizer.from_pretrained(str(stored.model)))
    machinery = resolve_machinery(config, cache, auto_tokens=BATCH_TOKENS)
    accelerator = create_accelerator(
        device=machinery.device, precision=machinery.precision, num_threads=machinery.num_threads
    )
    tell_of_quantized_base(stored.model, machinery.precision)
    network = load_model_folder(
        stored.model,
        precision=machinery.precision,
        attention=machinery.attention,
        as_trained=True,
        device=machinery.device,
    )
    loss = accelerator.prepare(SequenceLoss(network))
    evaluator = Evaluator(
        cache,
        split,
        config.evaluation,
        template=cache.prompts.held_out,
        max_source_tokens=config.data.max_source_tokens,
        batch_tokens=machinery.micro_batch_tokens,
        generation_tokens=generation_budget(config, machinery, is_training=False),
        accelerator=accelerator,
    )
    return evaluator.evaluate(loss)
