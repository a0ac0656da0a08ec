"""The whole configuration of one command, and the rules between its sections."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, PrivateAttr, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from recipe_exp.config import yaml_file
from recipe_exp.config.adapter_rules import adapter_contradictions
from recipe_exp.config.base import Section, Strings, Text, every_key
from recipe_exp.config.data import DataConfig
from recipe_exp.config.evaluation import LOWER_IS_BETTER, EvaluationConfig
from recipe_exp.config.hardware import HardwareConfig
from recipe_exp.config.messages import in_one_line, show_path, show_value
from recipe_exp.config.model import ModelConfig
from recipe_exp.config.relevance import explain_name
from recipe_exp.config.sweep import SweepConfig, sweep_contradictions
from recipe_exp.config.task import TaskConfig
from recipe_exp.config.tracking import TrackingConfig
from recipe_exp.config.training import NoAdapterConfig, TrainingConfig
from recipe_exp.errors import ConfigError
from recipe_exp.files import write_atomically

CONTRADICTION = "contradiction"


class _TypedKeys(frozenset[str]):
    """Keys that a command names; configurations are equal whatever named their values."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _TypedKeys)

    __hash__ = frozenset.__hash__


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
    output_dir: Text = "outputs"
    """Folder of everything that is written: runs, sweeps, caches, MLflow's database and artifacts."""
    resume: Text | None = None
    """`latest`, a run id or a run folder to continue; null starts a run of its own."""
    resume_strict: bool = False
    """Refuse to continue where the newest checkpoint is damaged, instead of falling back to the one before it."""
    resume_allow: Strings = ()
    """What may differ from the run that is continued: keys such as `training.learning_rate`, or `data`, `tokenizer`,
    `base`, `precision`, `num_processes`, `device`."""
    resume_schedule: Literal["keep", "stretch"] | None = None
    """Where the run is continued to another number of steps: `keep` leaves a decaying learning rate laid over the steps
    it was laid over, `stretch` lays it over the present ones; null refuses another length."""
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
    sweep: SweepConfig = SweepConfig()
    """How `--multirun` goes on, searches and divides its trials."""

    _typed_keys: _TypedKeys = PrivateAttr(default=_TypedKeys())

    @property
    def typed_keys(self) -> frozenset[str]:
        """Keys and sections that the command named itself, be it with their usual values."""
        return frozenset(self._typed_keys)

    def with_typed_keys(self, keys: Iterable[str]) -> ExperimentConfig:
        """Returns a copy for a command that named these keys too."""
        copy = self.model_copy()
        copy._typed_keys = _TypedKeys([*self._typed_keys, *keys])
        return copy

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> ExperimentConfig:
        # Beside a run that is named stand only the keys that differ from it; they are looked at together with its own.
        names_run = self.resume not in (None, "latest")
        found = [*_resume_contradictions(self), *([] if names_run else contradictions(self))]
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
            ConfigError: if the file is missing, is not YAML or does not validate; each line names the file.
        """
        data = yaml_file.parse(yaml_file.read_text(Path(path)), Path(path))
        if not data:
            raise ConfigError([f"{show_path(path)}: is empty; it should hold the sections of a configuration"])
        try:
            return cls.from_data(data)
        except ConfigError as error:
            raise ConfigError([f"{show_path(path)}: {mistake}" for mistake in error.mistakes]) from None

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
    yield from adapter_contradictions(config)
    yield from _low_memory_contradictions(config)
    yield from _evaluation_contradictions(config)
    yield from _sweep_contradictions(config)
    if config.hardware.device == "cpu" and config.training.precision == "tf32":
        yield "training.precision=tf32: only NVIDIA GPUs have it; use fp32 with hardware.device=cpu"


def _data_contradictions(data: DataConfig) -> Iterator[str]:
    if data.format != "sample" and data.path is None:
        needed = "the name of a dataset" if data.format == "huggingface" else "a file, a folder or a glob"
        yield f"data.path=null: data.format={data.format} needs {needed}; set data.path=..."
    if data.format == "sample" and data.path is not None:
        yield f"data.path={show_value(data.path)}: generated recipes have no path; add data=files to read it"
    if data.format == "sample" and data.max_examples is None:
        yield "data.max_examples=null: the generator never ends; set how many recipes it makes"
    if data.validation_fraction + data.test_fraction >= 1.0:
        yield (
            f"data.validation_fraction={data.validation_fraction}: with data.test_fraction={data.test_fraction} "
            "nothing is left for training; lower one of them"
        )


def _model_contradictions(config: ExperimentConfig) -> Iterator[str]:
    model = config.model
    if not model.pretrained and model.revision is not None:
        revision = show_value(model.revision)
        yield f"model.revision={revision}: random weights have none; remove it or set model.pretrained=true"


def _low_memory_contradictions(config: ExperimentConfig) -> Iterator[str]:
    training, hardware = config.training, config.hardware
    has_adapter = not isinstance(training.adapter, NoAdapterConfig)
    if training.weights_dtype == "bf16":
        if training.precision != "bf16":
            yield (
                f"training.precision={training.precision}: weights held in bfloat16 are computed with in it; set "
                "training.precision=bf16 or training.weights_dtype=fp32"
            )
        if has_adapter:
            yield "training.weights_dtype=bf16: an adapter is small and stays in fp32; set it to fp32"
    if not training.update_in_backward:
        return
    key = "training.update_in_backward=true"
    if has_adapter:
        yield f"{key}: an adapter's gradients are small; set it to false"
    if training.max_grad_norm is not None:
        yield f"{key}: the gradient is never there as a whole to be clipped; set training.max_grad_norm=null"
    if training.on_non_finite == "skip_step":
        yield f"{key}: a step is half done when it proves unsound; set training.on_non_finite=stop or rollback"
    if hardware.num_processes != 1:
        yield f"{key}: processes would have to exchange their gradients first; set hardware.num_processes=1"
    if hardware.micro_batch_tokens != "auto":
        yield (
            f"{key}: a window is one micro-batch; set hardware.micro_batch_tokens=auto, and training.batch_size as "
            "small as the memory needs it"
        )


def _evaluation_contradictions(config: ExperimentConfig) -> Iterator[str]:
    evaluation, training = config.evaluation, config.training
    lower_is_better = evaluation.best_metric in LOWER_IS_BETTER
    if lower_is_better != (evaluation.best_mode == "min"):
        wanted = "min" if lower_is_better else "max"
        yield (
            f"evaluation.best_mode={evaluation.best_mode}: {evaluation.best_metric} is better when "
            f"{'lower' if lower_is_better else 'higher'}; set evaluation.best_mode={wanted}"
        )
    if evaluation.temperature > 0 and evaluation.num_beams > 1:
        yield (
            f"evaluation.temperature={evaluation.temperature}: tokens are drawn, and evaluation.num_beams="
            f"{evaluation.num_beams} searches for them; set one of them back"
        )
    if evaluation.untuned_base and not config.model.pretrained:
        yield (
            "evaluation.untuned_base=true: model.pretrained=false starts from random weights, which write nothing; set "
            "it back"
        )
    for key, usual in (("top_p", 1.0), ("sampling_seed", 0)):
        if evaluation.temperature == 0 and (value := getattr(evaluation, key)) != usual:
            yield f"evaluation.{key}={value}: no token is drawn; set evaluation.temperature"
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
    if training.max_steps is not None and training.warmup_steps >= training.max_steps:
        yield (
            f"training.warmup_steps={training.warmup_steps}: the run ends at training.max_steps={training.max_steps} "
            "before the warm-up does; lower one or raise the other"
        )


def _sweep_contradictions(config: ExperimentConfig) -> Iterator[str]:
    yield from sweep_contradictions(config.sweep)
    if config.sweep.pruner != "none" and config.evaluation.every_n_steps is None:
        yield (
            f"sweep.pruner={config.sweep.pruner}: nothing is evaluated during training; set evaluation.every_n_steps"
        )


def _resume_contradictions(config: ExperimentConfig) -> Iterator[str]:
    if config.resume is None:
        for key in ("resume_strict", "resume_allow", "resume_schedule"):
            value = getattr(config, key)
            if value:
                yield f"{key}={show_value(value)}: no run is continued; add resume=latest or resume=RUN_ID"
    elif config.task.kind != "train":
        yield f"resume={show_value(config.resume)}: only training continues a run; name it with task.run"
    keys = every_key(ExperimentConfig) if config.resume_allow else []
    for name in config.resume_allow:
        mistake = explain_name(name, keys)
        if mistake is not None:
            yield f"resume_allow=[{in_one_line(name)}]: {mistake}"
