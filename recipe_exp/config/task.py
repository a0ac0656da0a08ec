"""`task.`: what the command does. Chosen with `task=NAME`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from recipe_exp.config.base import Section, Strings, Text


class TrainTask(Section):
    """Train a model, evaluate it and keep the best checkpoint."""

    kind: Literal["train"] = "train"
    """Selects this task."""


class PrepareTask(Section):
    """Read, clean, divide and tokenize the recipes into the cache that training opens, and stop."""

    kind: Literal["prepare"] = "prepare"
    """Selects this task."""
    output: Text | None = None
    """Folder for the splits, the list of what was left out and the data card; `data=prepared data.path=FOLDER` trains
    on it on any machine. Null leaves them in the cache, and puts the data card below `output_dir`."""
    model: bool = False
    """Fetch the weights of `model.name` too, for a machine without a network; its tokenizer is fetched in any case."""


class EvaluateTask(Section):
    """Score a model, or recipes that are written already, and make a report of it."""

    kind: Literal["evaluate"] = "evaluate"
    """Selects this task."""
    run: Text = "latest"
    """A run folder, a run id or its start, a run name, `latest`, `best:SWEEP`, the folder of a checkpoint, of a plain
    T5 or of an adapter, or a `.jsonl` file of predictions: lines with `prompt`, `reference` and `prediction`."""
    split: Literal["validation", "test", "train", "all"] = "validation"
    """Which split is scored; `all` takes every recipe of the data."""
    output: Text | None = None
    """JSON file for the metrics; the report and the predictions lie beside it as `.html` and `.jsonl`. Null writes
    `evaluation-SPLIT.json` into the run folder, and without one into the present folder."""


class ValidateMetricsTask(Section):
    """Spoil held-out recipes in known ways and show which metric notices which fault."""

    kind: Literal["validate_metrics"] = "validate_metrics"
    """Selects this task."""
    max_recipes: Annotated[int, Field(ge=2)] = 1000
    """Held-out recipes that are spoilt, validation before test; metrics learn from the training split."""
    output: Text | None = None
    """JSON file for the matrix; null writes `metric_validation.json` below `output_dir`."""


class GenerateTask(Section):
    """Write recipes for prompts with a run's model, or with that of a folder."""

    kind: Literal["generate"] = "generate"
    """Selects this task."""
    run: Text = "latest"
    """A run folder, a run id or its start, a run name, `latest`, `best:SWEEP`, or the folder of a plain T5 or of an
    adapter."""
    prompts: Strings = ()
    """Prompts: raw text, or `title=...; ingredients=..., ...`. Empty reads `prompts_file`; without one, a terminal is
    asked for prompts until it says `exit`."""
    prompts_file: Text | None = None
    """A file with one prompt a line; `-` is standard input."""
    output: Text | None = None
    """JSONL file with prompt and recipe; null prints them."""


class MergeTask(Section):
    """Merge a run's LoRA adapter into its base model and save a plain transformers model, certified."""

    kind: Literal["merge"] = "merge"
    """Selects this task."""
    run: Text = "latest"
    """A run folder, a run id or its start, a run name, `latest`, or `best:SWEEP`."""
    output: Text | None = None
    """Folder of the merged model; null writes `merged/` into the run folder."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Type of the weights that are written; for bf16 the difference from the trained model is reported."""
    license: Text | None = None
    """Licence for the model card, such as `apache-2.0`; null leaves it unknown."""


class ExportTask(Section):
    """Publish a run's model as a plain transformers folder: merged, certified, with a model card."""

    kind: Literal["export"] = "export"
    """Selects this task."""
    run: Text = "latest"
    """A run folder, a run id or its start, a run name, `latest`, or `best:SWEEP`."""
    output: Text | None = None
    """Folder of the model; null writes `export/` into the run folder."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Type of the weights that are written; for bf16 the difference from the trained model is reported."""
    license: Text | None = None
    """Licence for the model card, such as `apache-2.0`; null leaves it unknown."""
    ctranslate2: bool = False
    """Convert it for CTranslate2 too, into `ctranslate2/` in the folder, and certify that."""


class PlanTask(Section):
    """Estimate memory and time of a training run from its configuration alone."""

    kind: Literal["plan"] = "plan"
    """Selects this task."""
    output: Text | None = None
    """JSON file for the plan; null only prints it."""


class DoctorTask(Section):
    """Check the machine, the packages and the tracking server before a long run."""

    kind: Literal["doctor"] = "doctor"
    """Selects this task."""


class SyncTask(Section):
    """Send what is missing of runs' journals to the tracking server."""

    kind: Literal["sync"] = "sync"
    """Selects this task."""
    runs: Strings = ()
    """Run folders, ids or names; empty takes every run under `output_dir` that was to be tracked and has ended."""


class CompareTask(Section):
    """Show runs side by side: in what they differ, and what came of them."""

    kind: Literal["compare"] = "compare"
    """Selects this task."""
    runs: Strings = ()
    """Run folders, ids, names or `best:SWEEP`; a sweep stands for its trials; empty takes every run under
    `output_dir`."""
    output: Text | None = None
    """File for everything that is shown: a page with plots if its name ends in `.html`, else JSON; null only prints."""


class RerunTask(Section):
    """Train a run anew as it was, and say whether the numbers are the same."""

    kind: Literal["rerun"] = "rerun"
    """Selects this task."""
    run: Text = "latest"
    """A run folder, a run id or its start, a run name, `latest`, or `best:SWEEP`."""
    allow: Strings = ()
    """What may differ from then, by the names of the refusal, such as `[commit,patch]`."""


class DiffTask(Section):
    """Show in what two runs differ: configuration, data, code, packages, machine and metrics."""

    kind: Literal["diff"] = "diff"
    """Selects this task."""
    runs: Strings = ()
    """Two run folders, ids, names or `best:SWEEP`; empty takes the two newest runs under `output_dir`."""
    output: Text | None = None
    """JSON file for everything that differs, uncommitted changes of code in full; null only prints."""


class CleanTask(Section):
    """Show what takes space under `output_dir`, and free some of it on request."""

    kind: Literal["clean"] = "clean"
    """Selects this task."""
    runs: Strings = ()
    """Run folders, ids or names, or folders of single checkpoints; empty takes every run that `what` may touch."""
    what: Literal["checkpoints", "runs", "leftovers", "caches"] = "checkpoints"
    """What is freed: `checkpoints` of finished runs but the best, whole `runs` that are named, `leftovers` of saves and
    builds that were interrupted, `caches` of tokens and prepared data that no run under `output_dir` was trained on."""
    delete: bool = False
    """Delete it. False shows what would go."""


class UiTask(Section):
    """Open the MLflow UI on the runs under `output_dir`."""

    kind: Literal["ui"] = "ui"
    """Selects this task."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=1, le=65535)] = 5000
    """Port to listen on."""


TaskConfig = Annotated[
    TrainTask
    | PrepareTask
    | EvaluateTask
    | ValidateMetricsTask
    | GenerateTask
    | MergeTask
    | ExportTask
    | PlanTask
    | DoctorTask
    | SyncTask
    | CompareTask
    | DiffTask
    | RerunTask
    | CleanTask
    | UiTask,
    Field(discriminator="kind"),
]
