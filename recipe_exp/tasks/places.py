"""Where a command reads and writes, looked at before anything is loaded or made."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.messages import show_path, show_setting
from recipe_exp.config.model import ModelConfig
from recipe_exp.config.task import (
    CompareTask,
    DiffTask,
    EvaluateTask,
    ExportTask,
    GenerateTask,
    MergeTask,
    PlanTask,
    PrepareTask,
    TrainTask,
    ValidateMetricsTask,
)
from recipe_exp.data.hub import hub_is_reachable
from recipe_exp.errors import ModelError
from recipe_exp.models.download import find_folder
from recipe_exp.models.stored_files import (
    ADAPTER_CONFIG,
    CONFIG,
    check_model_folder,
    check_tokenizer_folder,
    max_positions_of,
)
from recipe_exp.tracking import find_run

_WRITING_TASKS = (
    EvaluateTask,
    GenerateTask,
    PlanTask,
    CompareTask,
    DiffTask,
    MergeTask,
    ExportTask,
    PrepareTask,
    ValidateMetricsTask,
)
PREDICTIONS_SUFFIX = ".jsonl"
"""What `task=evaluate` takes for a file of predictions."""
_MAX_NAME_BYTES = 255
_HUB_NAME = re.compile(r"(?=.{1,96}$)[\w.-]+(?:/[\w.-]+)?", re.ASCII)
_REVISION = re.compile(r"(?=.{1,200}$)[\w./-]+", re.ASCII)


def place_mistakes(config: ExperimentConfig) -> Iterator[str]:
    """Yields one line for each place that the task will write to and cannot."""
    task = config.task
    if config.output_dir.startswith("~"):
        yield f"{show_setting('output_dir', config.output_dir)}: a home is not looked up; write the whole path"
    if isinstance(task, TrainTask | PrepareTask):
        for key, value in (("output_dir", config.output_dir), ("data.cache_dir", config.data.cache_dir)):
            reason = _why_no_folder(value) if value is not None else None
            if reason:
                yield f"{show_setting(key, value)}: cannot be written ({reason}); name a folder that can"
    if isinstance(task, _WRITING_TASKS) and task.output is not None:
        is_folder = isinstance(task, MergeTask | ExportTask | PrepareTask)
        reason = _why_no_folder(task.output) if is_folder else _why_no_file(task.output)
        if reason:
            yield f"{show_setting('task.output', task.output)}: cannot be written ({reason}); choose another"


def cache_dir_of(config: ExperimentConfig) -> Path:
    """Returns the folder of prepared data and token caches."""
    cache_dir = Path(config.data.cache_dir) if config.data.cache_dir else Path(config.output_dir) / "cache"
    return cache_dir.expanduser().absolute()


def compile_dir_of(config: ExperimentConfig) -> Path:
    """Returns the folder of compiled kernels."""
    return cache_dir_of(config) / "compiled"


def check_stored(config: ExperimentConfig) -> None:
    """Refuses a run that is not there, or whose configuration cannot be read.

    Raises:
        CheckpointError: there is no such run.
        ConfigError: its `config.yaml` is none.
    """
    task = config.task
    if isinstance(task, EvaluateTask) and task.run.endswith(PREDICTIONS_SUFFIX):
        return
    if isinstance(task, EvaluateTask | GenerateTask) and is_model_folder(task.run):
        return
    if isinstance(task, EvaluateTask | GenerateTask | MergeTask | ExportTask):
        folder = find_run(Path(config.output_dir), task.run)
        if task.run != "latest":  # which takes the newest that has a model
            ExperimentConfig.from_yaml(folder.config_path)


def is_model_folder(reference: str) -> bool:
    """Returns whether a reference names a folder that holds a model itself, instead of a run."""
    # `os.path` answers where pathlib raises: for a name that is too long.
    return any(os.path.isfile(f"{reference}/{name}") for name in (CONFIG, ADAPTER_CONFIG))  # noqa: PTH113


def check_base(model: ModelConfig) -> None:
    """Refuses a local folder that holds no T5 of the configured shape, and a name that no model can have.

    Raises:
        ModelError: with what is wrong and the remedy.
    """
    if not model.pretrained:
        return
    shown = show_setting("model.name", model.name)
    path = os.path.expanduser(model.name)  # noqa: PTH111 - pathlib raises for the home of an unknown user
    if os.path.isdir(path):  # noqa: PTH112 - pathlib raises for a name that is too long
        check_tokenizer_folder(Path(path), check_model_folder(Path(path), model.shape))
    elif os.path.exists(path):  # noqa: PTH110
        raise ModelError(f"{shown}: is no folder; name one that holds a T5")
    elif _HUB_NAME.fullmatch(model.name) is None:
        raise ModelError(f"{shown}: neither a folder nor the name of a model on the hub, such as google/flan-t5-base")
    elif model.revision is not None and (_REVISION.fullmatch(model.revision) is None or ".." in model.revision):
        raise ModelError(f"{show_setting('model.revision', model.revision)}: no branch, tag or commit has this name")
    elif not _is_cached(model) and not hub_is_reachable():
        raise ModelError(
            f"{shown}: not a local folder, not in the hub's cache, and the hub cannot be reached; "
            "set model.name to a local folder, or connect once to fill the cache"
        )


def check_lengths(config: ExperimentConfig) -> None:
    """Refuses texts longer than the model has positions for, where its config.json is on this machine.

    Raises:
        ModelError: with the key and the longest that it may be.
    """
    model = config.model
    folder = find_folder(model.name, model.revision) if model.pretrained else None
    positions = max_positions_of(folder) if folder is not None else None
    lengths = {
        "data.max_source_tokens": config.data.max_source_tokens,
        "data.max_target_tokens": config.data.max_target_tokens,
        "evaluation.max_new_tokens": config.evaluation.max_new_tokens,
    }
    for key, length in lengths.items():
        if positions is not None and length > positions:
            raise ModelError(
                f"{key}={length}: {show_setting('model.name', model.name)} has {positions} positions, and a longer "
                f"text has none; set {key}={positions} or less"
            )


def _is_cached(model: ModelConfig) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(model.name, CONFIG, revision=model.revision), str)


def _why_no_file(name: str) -> str | None:
    """Returns why no file can be made or replaced at a path, None if one can."""
    path = _home_looked_up(name)
    if path is None:
        return "there is no such home"
    if os.path.lexists(path):
        return "is a folder" if path.is_dir() else None if os.access(path, os.W_OK) else "no permission"
    return _why_not_below(path)


def _why_no_folder(name: str) -> str | None:
    """Returns why no folder can be made or written at a path, None if one can."""
    path = _home_looked_up(name)
    return "there is no such home" if path is None else _why_not_below(path)


def _why_not_below(path: Path) -> str | None:
    is_long = any(len(os.fsencode(part)) > _MAX_NAME_BYTES for part in path.parts)
    if is_long or len(os.fsencode(path)) >= os.pathconf("/", "PC_PATH_MAX"):
        return "the name is too long"
    existing = next(folder for folder in (path, *path.parents) if os.path.lexists(folder))
    if not existing.is_dir():
        return f"{show_path(existing)} is no folder"
    return None if os.access(existing, os.W_OK | os.X_OK) else f"no permission in {show_path(existing)}"


def _home_looked_up(name: str) -> Path | None:
    path = os.path.expanduser(name)  # noqa: PTH111 - pathlib raises for the home of an unknown user
    return None if path.startswith("~") else Path(path).absolute()
