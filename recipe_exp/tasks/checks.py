"""What can be known to be wrong before PyTorch is loaded, beyond the schema: it takes other parts to know."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.task import ExportTask, GenerateTask, PrepareTask, TrainTask
from recipe_exp.config.training import LoraConfig
from recipe_exp.data.preparation.first_look import look_at
from recipe_exp.data.prompts import find_prompts, parse_prompt
from recipe_exp.errors import ConfigError
from recipe_exp.tasks.places import check_base, check_lengths, check_stored, place_mistakes
from recipe_exp.tasks.references import resolve_references
from recipe_exp.tasks.running.run_choice import choose_run
from recipe_exp.tracking import address_mistakes


def check(config: ExperimentConfig) -> None:
    """Refuses a command whose task would fail at its first look at the configuration, the run, the data or the model.

    Raises:
        ConfigError: every unknown template, unreadable prompt, missing module of one's own, missing address to notify
            and place that cannot be written, one line each.
        ResumeError: if continuing the run would change numbers.
        CheckpointError: if the run that is named does not exist.
        DataError: if no run can be made of the recipes.
        ModelError: if the model's folder holds no T5 of the configured shape.
    """
    readers = [config.data.format] if ":" in config.data.format else []
    mistakes = [
        *_prompt_mistakes(config),
        *_module_mistakes("training.callbacks", config.training.callbacks),
        *_module_mistakes("data.format", readers),
        *place_mistakes(config),
        *_generate_mistakes(config.task),
        *_prepare_mistakes(config),
        *_export_mistakes(config.task),
        *_package_mistakes(config),
    ]
    if isinstance(config.task, TrainTask):
        mistakes += address_mistakes(config.tracking.notify)
    if mistakes:
        raise ConfigError(mistakes)
    config = resolve_references(config)
    check_stored(config)
    if isinstance(config.task, PrepareTask) and config.task.model:
        check_base(config.model)
    if isinstance(config.task, TrainTask):
        choice = choose_run(config)
        if not choice.is_finished:
            check_base(choice.config.model)
            check_lengths(choice.config)
            look_at(choice.config.data)


def _generate_mistakes(task: object) -> Iterator[str]:
    if isinstance(task, GenerateTask) and task.prompts and task.prompts_file:
        yield "task.prompts_file: not together with task.prompts; name one of them"
    elif isinstance(task, GenerateTask) and not task.prompts and task.prompts_file is None and not sys.stdin.isatty():
        yield "task.prompts=[]: nothing to write; set task.prompts=['...'] or task.prompts_file=FILE (- reads stdin)"


def _export_mistakes(task: object) -> Iterator[str]:
    if isinstance(task, ExportTask) and task.ctranslate2 and find_spec("ctranslate2") is None:
        yield "task.ctranslate2=true: the package is not installed; pip install 'recipe-exp[ctranslate2]'"


def _prepare_mistakes(config: ExperimentConfig) -> Iterator[str]:
    if isinstance(config.task, PrepareTask) and config.task.model and not config.model.pretrained:
        yield "task.model=true: model.pretrained=false starts from random weights, so there is nothing to fetch"


def _package_mistakes(config: ExperimentConfig) -> Iterator[str]:
    adapter, optimizer = config.training.adapter, config.training.optimizer
    if not isinstance(config.task, TrainTask) or find_spec("bitsandbytes") is not None:
        return
    remedy = "needs bitsandbytes, which is not installed; pip install 'recipe-exp[quantized]', or"
    if isinstance(adapter, LoraConfig) and adapter.quantization != "none":
        yield f"training.adapter.quantization={adapter.quantization}: {remedy} take training=lora"
    if optimizer.kind == "adamw_8bit":
        yield f"training.optimizer.kind={optimizer.kind}: {remedy} take training/optimizer=adamw or adafactor"


def _prompt_mistakes(config: ExperimentConfig) -> Iterator[str]:
    try:
        mix = find_prompts(config.data)
        for prompt in config.evaluation.validation_prompts:
            parse_prompt(prompt, mix.held_out)
    except ConfigError as error:
        yield from error.mistakes


def _module_mistakes(key: str, names: Sequence[str]) -> Iterator[str]:
    # `python -m` looks for modules where it was started; a console script does not.
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    for name in names:
        module = name.partition(":")[0]
        if module.partition(".")[0] in sys.stdlib_module_names:
            yield f"{key}={name}: {module} is a part of Python; name a module of your own"
            continue
        try:
            found = find_spec(module) is not None
        except (ImportError, ValueError):
            found = False
        if not found:
            yield f"{key}={name}: no module {module} here; it must be importable from this folder"
