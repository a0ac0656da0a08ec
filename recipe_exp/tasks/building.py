"""What several tasks build from a configuration in the same way: machinery, the windows and the model."""

from __future__ import annotations

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.training import LoraConfig, TrainingConfig
from recipe_exp.data.plan import DifficultyArray, WindowPlan
from recipe_exp.data.tokens.cache import TokenCache
from recipe_exp.errors import HardwareError
from recipe_exp.hardware import detect
from recipe_exp.hardware.machinery import Machinery
from recipe_exp.models.attention_choice import AttentionChoice, AttentionSetting, choose_attention
from recipe_exp.models.unpadded.compiling import use_compile_cache
from recipe_exp.planning.fitting import auto_micro_batch_tokens
from recipe_exp.planning.flops import training_flops
from recipe_exp.planning.generation import generation_tokens
from recipe_exp.planning.inputs import Machine
from recipe_exp.planning.remedies import Setup
from recipe_exp.tasks.places import compile_dir_of
from recipe_exp.tasks.plan import setup_of
from recipe_exp.tasks.running.resume_rules import planned_steps


def resolve_machinery(
    config: ExperimentConfig,
    cache: TokenCache,
    *,
    auto_tokens: int | None = None,
    attention: AttentionChoice | None = None,
) -> Machinery:
    """Returns everything that `auto` stands for on this machine and this data.

    Args:
        config: the whole configuration.
        cache: the data.
        auto_tokens: what `hardware.micro_batch_tokens=auto` stands for; None finds what a training step fits into.
        attention: what `model.attention` stands for; None asks the machine.
    """
    hardware = config.hardware
    device = detect.resolve_device(hardware.device)
    num_processes = detect.resolve_num_processes(hardware, device)
    precision = detect.resolve_precision(config.training.precision, device)
    is_compiled = detect.resolve_compile(hardware.compile, device, _training_flops(config, cache))
    setup = setup_of(config, precision, is_compiled=is_compiled)
    if is_compiled:
        use_compile_cache(compile_dir_of(config))
    if attention is None:
        attention = choose_attention(config.model.attention, attention_setting(setup, device))
    memory_bytes = detect.device_memory_bytes(hardware, device)
    micro_batch_tokens = hardware.micro_batch_tokens
    if micro_batch_tokens == "auto" and auto_tokens is not None:
        micro_batch_tokens = auto_tokens
    elif micro_batch_tokens == "auto" and config.training.update_in_backward:
        micro_batch_tokens = config.training.batch_size * _longest_padded_tokens(cache)
    elif micro_batch_tokens == "auto":
        longest = longest_example_tokens(cache)
        try:
            micro_batch_tokens = auto_micro_batch_tokens(
                setup, Machine(device, attention.kernel, memory_bytes), longest
            )
        except HardwareError as error:
            if hardware.on_oversize == "refuse":
                raise HardwareError(f"{error}; hardware.on_oversize=warn tries all the same") from None
            micro_batch_tokens = longest
    return Machinery(
        device=device,
        device_name=detect.device_name(device),
        memory_bytes=memory_bytes,
        num_processes=num_processes,
        num_threads=detect.resolve_num_threads(hardware, num_processes),
        precision=precision,
        attention=attention.kernel,
        micro_batch_tokens=micro_batch_tokens,
        is_compiled=is_compiled,
        attention_reason=attention.reason,
    )


def attention_setting(setup: Setup, device: str) -> AttentionSetting:
    """Returns what decides which attention kernel a model is tuned with.

    Args:
        setup: what is tuned and how.
        device: resolved.
    """
    return AttentionSetting(
        device,
        setup.precision,
        setup.model.shape,
        dropout=setup.model.dropout,
        is_bias_tuned=not isinstance(setup.training.adapter, LoraConfig),
        is_compiled=setup.is_compiled,
        is_padded=setup.is_padded,
    )


def generation_budget(config: ExperimentConfig, machinery: Machinery, *, is_training: bool) -> int:
    """Returns the tokens of prompts and recipes that are written at the same time on this machine."""
    return generation_tokens(
        setup_of(config, machinery.precision, is_compiled=machinery.is_compiled),
        config.evaluation,
        config.data.max_source_tokens,
        Machine(machinery.device, machinery.attention, machinery.memory_bytes),
        is_training=is_training,
    )


def _training_flops(config: ExperimentConfig, cache: TokenCache) -> float:
    """Returns the arithmetic of the whole run, or 0 where the task trains nothing."""
    split = cache.split("train")
    if config.task.kind != "train" or not len(split):
        return 0.0
    of_example = training_flops(
        config.model.shape,
        config.training.adapter,
        source_tokens=float(split.source_lengths.mean()),
        target_tokens=float(split.target_lengths.mean()),
        gradient_checkpointing=config.model.gradient_checkpointing,
    )
    return planned_steps(config.training, len(split)) * config.training.batch_size * of_example


def longest_example_tokens(cache: TokenCache) -> int:
    """Returns the source and target tokens of the longest training example under its longest prompt."""
    split = cache.split("train")
    lengths = split.all_source_lengths.max(axis=1).astype("int64") + split.target_lengths
    return int(lengths.max()) if len(split) else 1


def _longest_padded_tokens(cache: TokenCache) -> int:
    """Returns the tokens of an example that is padded to the longest source and the longest target."""
    split = cache.split("train")
    if not len(split):
        return 1
    return int(split.all_source_lengths.max()) + int(split.target_lengths.max())


def plan_windows(training: TrainingConfig, seed: int, cache: TokenCache) -> WindowPlan:
    """Returns which examples each step learns from, with which prompts.

    Raises:
        DataError: if there is no example.
    """
    split = cache.split("train")
    difficulty: DifficultyArray | None = None
    match training.curriculum:
        case "short_first":
            difficulty = split.target_lengths
        case "quality_first":
            difficulty = -split.quality_scores
    return WindowPlan(len(split), training.batch_size, seed, cache.data_fingerprint, cache.prompts.weights, difficulty)
