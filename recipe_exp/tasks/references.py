"""Runs that a configuration begins with: `model.name=RUN` and `training.adapter.start_from=RUN`.

Both become the absolute folder that is meant, which is what the run stores. Nothing here needs PyTorch.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from recipe_exp.config.experiment import ExperimentConfig, contradictions
from recipe_exp.config.messages import show_path, show_setting, show_value
from recipe_exp.config.model import ModelConfig
from recipe_exp.config.task import PlanTask, PrepareTask, TrainTask
from recipe_exp.config.training import LoraConfig
from recipe_exp.errors import CheckpointError, ConfigError, ModelError
from recipe_exp.models.stored_files import ADAPTER_CONFIG, CONFIG
from recipe_exp.tracking import RunFolder, find_run, list_runs
from recipe_exp.tracking.record_file import RECORD_NAME
from recipe_exp.training.manifest import MANIFEST, Manifest

_MERGED = "merged"
_START = "training.adapter.start_from"
_RUN_ID = re.compile(r"\d{8}-\d{6}-[a-z2-7]{4}(-.*)?")
# What an adapter's weights belong to: they mean something else, or nothing, under any other value.
_SAME_ADAPTER = ("rank", "targets", "alpha", "rslora", "dora", "init")


def resolve_references(config: ExperimentConfig) -> ExperimentConfig:
    """Returns the configuration with the folders of the runs that it names; it may be called again on its result.

    A run that is continued by its id brings its own configuration, of which the command may repeat a part: that part
    need not be sound by itself.

    Raises:
        CheckpointError: if a run is not there.
        ModelError: if it cannot be what the run begins with.
        ConfigError: if the model of the run contradicts other keys.
    """
    if not isinstance(config.task, TrainTask | PlanTask | PrepareTask):
        return config
    is_whole = config.resume in (None, "latest")
    model, training = _model_of_run(config.model, Path(config.output_dir)), config.training
    if isinstance(training.adapter, LoraConfig) and training.adapter.start_from is not None:
        folder = _start_of(training.adapter, Path(config.output_dir))
        if is_whole:
            _refuse_unlike(training.adapter, folder)
        adapter = training.adapter.model_copy(update={"start_from": str(folder.path)})
        training = training.model_copy(update={"adapter": adapter})
    if model is config.model and training is config.training:
        return config
    resolved = config.model_copy(update={"model": model, "training": training})
    if is_whole and (mistakes := list(contradictions(resolved))):
        raise ConfigError(mistakes)
    return resolved


def origin_of(config: ExperimentConfig) -> dict[str, Any] | None:
    """Returns which run and which of its steps a run begins with, for `run.json`; None if with none.

    Args:
        config: with its references resolved.
    """
    adapter = config.training.adapter
    start = adapter.start_from if isinstance(adapter, LoraConfig) else None
    model = Path(start) / "model" if start is not None else _path(config.model.name)
    if not _is_file(model.parent / RECORD_NAME) or (start is None and not config.model.pretrained):
        return None
    step = Manifest.read(model).step if (model / MANIFEST).is_file() else None
    return {"run_id": RunFolder.open(model.parent).run_id, "folder": str(model.parent), "step": step}


def _model_of_run(model: ModelConfig, output_dir: Path) -> ModelConfig:
    """Takes weights, shape and tokenizer of a run; any other name is left as it is."""
    folder = _run_of_model(model.name, output_dir)
    if folder is None:
        return model
    shown = show_setting("model.name", model.name)
    named = _path(model.name)
    weights = named if (named / CONFIG).is_file() else folder.model_path
    if (weights / ADAPTER_CONFIG).is_file():
        raise ModelError(
            f"{shown}: the run tuned an adapter; go on with it through training.adapter.start_from={folder.run_id}, or "
            f"merge it with task=merge task.run={folder.run_id} and name {show_path(folder.path / _MERGED)}"
        )
    if not (weights / CONFIG).is_file():
        raise ModelError(f"{shown}: the run has no model yet; continue it with resume={folder.run_id}")
    shape = ExperimentConfig.from_yaml(folder.config_path).model.shape
    return model.model_copy(update={"name": str(weights), "pretrained": True, "revision": None, "shape": shape})


def _run_of_model(name: str, output_dir: Path) -> RunFolder | None:
    """Returns the run that a model's name means: an id, a run folder, the folder of its model, or `latest`."""
    path = _path(name)
    for folder, inside in ((path, RECORD_NAME), (path.parent, CONFIG)):
        if _is_file(folder / RECORD_NAME) and _is_file(path / inside):
            return RunFolder.open(folder)
    if name == "latest":
        return _newest(output_dir, CONFIG, "model.name")
    return _find("model.name", output_dir, name) if _RUN_ID.fullmatch(name) else None


def _start_of(lora: LoraConfig, output_dir: Path) -> RunFolder:
    """Returns the run whose adapter is started from."""
    reference = str(lora.start_from)
    if reference == "latest":
        return _newest(output_dir, ADAPTER_CONFIG, _START)
    return _find(_START, output_dir, reference)


def _refuse_unlike(lora: LoraConfig, folder: RunFolder) -> None:
    """Refuses a run whose adapter is of another kind than this one, or is not there yet."""
    shown = show_setting(_START, str(lora.start_from))
    then = ExperimentConfig.from_yaml(folder.config_path).training.adapter
    if not isinstance(then, LoraConfig):
        raise ModelError(f"{shown}: the run tuned the whole model; begin with it through model.name={folder.run_id}")
    differing = [name for name in _SAME_ADAPTER if getattr(then, name) != getattr(lora, name)]
    if differing:
        values = ", ".join(
            f"{name} {show_value(getattr(then, name))} instead of {show_value(getattr(lora, name))}"
            for name in differing
        )
        raise ModelError(f"{shown}: its adapter has {values}; set training.adapter to the same")
    if not (folder.model_path / ADAPTER_CONFIG).is_file():
        raise ModelError(f"{shown}: the run has no model yet; continue it with resume={folder.run_id}")


def _newest(output_dir: Path, file: str, key: str) -> RunFolder:
    """Returns the newest run whose model has this file, or the newest of all."""
    runs = list_runs(output_dir, kind="run")
    with_model = next((run for run in runs if (run.model_path / file).is_file()), None)
    return with_model or _find(key, output_dir, "latest")


def _find(key: str, output_dir: Path, reference: str) -> RunFolder:
    try:
        return find_run(output_dir, reference)
    except CheckpointError as error:
        raise CheckpointError(f"{key}: {error}") from None


def _path(name: str) -> Path:
    return Path(os.path.expanduser(name)).absolute()  # noqa: PTH111 - pathlib raises for the home of an unknown user


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name that is too long
        return False
