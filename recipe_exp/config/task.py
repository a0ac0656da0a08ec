"""`task.`: what the command does. Chosen with `task=NAME`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from recipe_exp.config.base import Section, Strings


class TrainTask(Section):
    """Train a model, evaluate it and keep the best checkpoint."""

    kind: Literal["train"] = "train"
    """Selects this task."""


class EvaluateTask(Section):
    """Score a run's model on held-out recipes."""

    kind: Literal["evaluate"] = "evaluate"
    """Selects this task."""
    run: str = "latest"
    """A run folder, a run id or its start, a run name, or `latest`."""
    split: Literal["validation", "test"] = "validation"
    """Which held-out split is scored."""
    output: str | None = None
    """JSON file for metrics and predictions; null writes `evaluation-SPLIT.json` into the run folder."""


class GenerateTask(Section):
    """Write recipes for prompts with a run's model."""

    kind: Literal["generate"] = "generate"
    """Selects this task."""
    run: str = "latest"
    """A run folder, a run id or its start, a run name, or `latest`."""
    prompts: Strings = ()
    """Prompts: raw text, or `title=...; ingredients=..., ...`. Empty reads `prompts_file`."""
    prompts_file: str | None = None
    """A file with one prompt a line; `-` is standard input."""
    output: str | None = None
    """JSONL file with prompt and recipe; null prints them."""


class MergeTask(Section):
    """Merge a run's LoRA adapter into its base model and save a plain transformers model."""

    kind: Literal["merge"] = "merge"
    """Selects this task."""
    run: str = "latest"
    """A run folder, a run id or its start, a run name, or `latest`."""
    output: str | None = None
    """Folder of the merged model; null writes `merged/` into the run folder."""


class PlanTask(Section):
    """Estimate memory and time of a training run from its configuration alone."""

    kind: Literal["plan"] = "plan"
    """Selects this task."""
    output: str | None = None
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
    """Run folders, ids or names; empty takes every run under `output_dir`."""


class UiTask(Section):
    """Open the MLflow UI on the runs under `output_dir`."""

    kind: Literal["ui"] = "ui"
    """Selects this task."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=1, le=65535)] = 5000
    """Port to listen on."""


TaskConfig = Annotated[
    TrainTask | EvaluateTask | GenerateTask | MergeTask | PlanTask | DoctorTask | SyncTask | UiTask,
    Field(discriminator="kind"),
]
