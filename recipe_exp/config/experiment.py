"""The whole configuration of one command, and the rules between its sections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from recipe_exp.config.base import Section, Strings
from recipe_exp.config.data import DataConfig
from recipe_exp.config.evaluation import LOWER_IS_BETTER, EvaluationConfig
from recipe_exp.config.hardware import HardwareConfig
from recipe_exp.config.messages import show_value
from recipe_exp.config.model import ModelConfig
from recipe_exp.config.task import TaskConfig
from recipe_exp.config.tracking import TrackingConfig
from recipe_exp.config.training import LoraConfig, TrainingConfig
from recipe_exp.errors import ConfigError
from recipe_exp.files import write_atomically

CONTRADICTION = "contradiction"


class ExperimentConfig(Section):
    """The whole configuration of one command.

    Only tasks take it whole; everything below them takes one section.
    """

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of weights, permutations and dropout."""
    run_name: str | None = None
    """Name of the run in the console and in MLflow; null names what differs from the defaults."""
    description: str | None = None
    """Free text, stored with the run."""
    tags: Strings = ()
    """Free words, stored with the run."""
    output_dir: str = "outputs"
    """Folder of everything that is written: runs, sweeps, caches, MLflow's database and artifacts."""
    resume: str | None = None
    """`latest`, a run id or a run folder to continue; null starts a run of its own."""
    task: TaskConfig
    """Chosen with `task=NAME`."""
    model: ModelConfig
    """Chosen with `model=NAME`."""
    data: DataConfig
    """Chosen with `data=NAME`."""
    training: TrainingConfig
    """Chosen with `training=NAME`."""
    hardware: HardwareConfig
    """Chosen with `hardware=NAME`."""
    evaluation: EvaluationConfig
    """Chosen with `evaluation=NAME`."""
    tracking: TrackingConfig
    """Chosen with `tracking=NAME`."""

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> ExperimentConfig:
        found = list(contradictions(self))
        if found:
            raise PydanticCustomError(CONTRADICTION, "{lines}", {"lines": "\n".join(found)})
        return self

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> ExperimentConfig:
        """Validates plain data, such as a parsed YAML file.

        Raises:
            ConfigError: with every mistake, one line each.
        """
        try:
            return cls.model_validate(data)
        except ValidationError:
            from recipe_exp.config.preflight import find_invalid_values

            raise ConfigError(find_invalid_values(data, {}, {})) from None

    @classmethod
    def from_yaml(cls, path: str | Path) -> ExperimentConfig:
        """Reads a configuration that `to_yaml` wrote.

        Raises:
            ConfigError: if the file is missing, is not YAML or does not validate.
        """
        try:
            data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError([f"{path}: {error.strerror or error}"]) from None
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ConfigError([f"{path}: not a YAML file: {' '.join(str(error).split())}"]) from None
        if not isinstance(data, dict):
            raise ConfigError([f"{path}: expected a mapping of sections"])
        return cls.from_data(data)

    def to_yaml(self, path: str | Path | None = None) -> str:
        """Returns the complete configuration as YAML and writes it to `path` if one is given."""
        text = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)
        if path is not None:
            write_atomically(Path(path), text.encode())
        return text

    def with_overrides(self, overrides: Sequence[str]) -> ExperimentConfig:
        """Returns a copy changed by overrides of the command line's grammar, such as `training.learning_rate=1e-4`.

        Raises:
            ConfigError: with every mistake, one line each.
        """
        from recipe_exp.config.compose import override

        return override(self, overrides)


def contradictions(config: ExperimentConfig) -> Iterator[str]:
    """Yields one line for each pair of keys that cannot both hold; each names the field and the remedy."""
    yield from _data_contradictions(config.data)
    yield from _model_contradictions(config)
    yield from _evaluation_contradictions(config)
    if config.hardware.device == "cpu" and config.training.precision == "tf32":
        yield "training.precision=tf32: only NVIDIA GPUs have it; use fp32 with hardware.device=cpu"


def _data_contradictions(data: DataConfig) -> Iterator[str]:
    if data.format == "jsonl" and data.path is None:
        yield "data.path=null: data.format=jsonl needs a file, a folder or a glob; set data.path=..."
    if data.format == "sample" and data.path is not None:
        yield f"data.path={show_value(data.path)}: generated recipes have no path; add data=jsonl to read it"
    if data.format == "sample" and data.max_examples is None:
        yield "data.max_examples=null: the generator never ends; set how many recipes it makes"
    if data.validation_fraction + data.test_fraction >= 1.0:
        yield (
            f"data.validation_fraction={data.validation_fraction}: with data.test_fraction={data.test_fraction} "
            "nothing is left for training; lower one of them"
        )


def _model_contradictions(config: ExperimentConfig) -> Iterator[str]:
    model, hardware = config.model, config.hardware
    if not model.pretrained and model.revision is not None:
        revision = show_value(model.revision)
        yield f"model.revision={revision}: random weights have none; remove it or set model.pretrained=true"
    if isinstance(config.training.adapter, LoraConfig) and config.training.adapter.rank > model.shape.d_model:
        yield (
            f"training.adapter.rank={config.training.adapter.rank}: more than the model's width "
            f"(model.shape.d_model={model.shape.d_model}) adds weights and no freedom; lower it"
        )
    if hardware.compile and model.gradient_checkpointing:
        yield "hardware.compile=true: not together with model.gradient_checkpointing=true; switch one of them off"


def _evaluation_contradictions(config: ExperimentConfig) -> Iterator[str]:
    evaluation, training = config.evaluation, config.training
    lower_is_better = evaluation.best_metric in LOWER_IS_BETTER
    if lower_is_better != (evaluation.best_mode == "min"):
        wanted = "min" if lower_is_better else "max"
        yield (
            f"evaluation.best_mode={evaluation.best_mode}: {evaluation.best_metric} is better when "
            f"{'lower' if lower_is_better else 'higher'}; set evaluation.best_mode={wanted}"
        )
    if training.early_stopping_patience is not None and evaluation.every_n_steps is None:
        yield (
            f"training.early_stopping_patience={training.early_stopping_patience}: nothing is evaluated "
            "during training; set evaluation.every_n_steps"
        )
    if config.data.validation_fraction == 0.0 and evaluation.every_n_steps is not None:
        yield (
            f"evaluation.every_n_steps={evaluation.every_n_steps}: data.validation_fraction=0 holds nothing out; "
            "set evaluation.every_n_steps=null or hold some recipes out"
        )
    if config.data.validation_fraction == 0.0 and evaluation.validation_prompts:
        yield (
            "evaluation.validation_prompts: answered with every evaluation, and data.validation_fraction=0 holds "
            "nothing out to evaluate; hold some recipes out"
        )
    if training.early_stopping_threshold > 0.0 and training.early_stopping_patience is None:
        yield (
            f"training.early_stopping_threshold={training.early_stopping_threshold}: nothing stops early; "
            "set training.early_stopping_patience"
        )
    if config.resume is not None and config.task.kind != "train":
        yield f"resume={show_value(config.resume)}: only training continues a run; name it with task.run"
    if training.max_steps is not None and training.warmup_steps >= training.max_steps:
        yield (
            f"training.warmup_steps={training.warmup_steps}: the run ends at training.max_steps={training.max_steps} "
            "before the warm-up does; lower one or raise the other"
        )
