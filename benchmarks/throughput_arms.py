"""One arm of one round of `train_throughput.py`, in a process of its own: `throughput_arms.py JOB.json ARM`."""

from __future__ import annotations

import copy
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from datasets import Dataset
from throughput_job import TOKENIZER, Job, Measured, Settings
from torch.nn.functional import cross_entropy
from transformers import (
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    PrinterCallback,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5ForConditionalGeneration,
    TrainerCallback,
    default_data_collator,
)
from transformers.utils import logging

from recipe_exp.config.compose import compose
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.model import ModelShape
from recipe_exp.data.loader import IGNORED_LABEL
from recipe_exp.data.tokens.cache import TokenCache, build_or_open_cache
from recipe_exp.data.tokens.token_files import TokenSplit
from recipe_exp.data.tokens.tokenizer import RecipeTokenizer
from recipe_exp.hardware.matrix_peak import measure_matrix_peak
from recipe_exp.models.finetuned import tuned_state
from recipe_exp.models.load import from_shape, set_dropout
from recipe_exp.planning.flops import training_flops
from recipe_exp.tasks.running.resuming import new_start
from recipe_exp.tasks.running.workbench import Workbench
from recipe_exp.training.step import seed_everything

Weights = dict[str, torch.Tensor]

# Of the products that are timed for the peak: rows of a micro-batch, rounded.
_PRODUCT_ROWS = 2048
_SECONDS_PER_PRODUCT = 0.25
_EVALUATION_ROWS = 8


@dataclass
class Steps:
    """What is known of the steps of an arm once they are done; the fields are those of `Measured`."""

    precision: str
    num_steps: int = 0
    num_examples: int = 0
    num_computed_tokens: int = 0
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Runs the clocks."""
        wait_for_device()
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        wait_for_device()
        self.wall_seconds, self.cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    """Prints what the arm found as JSON."""
    job, arm = Job.read(Path(sys.argv[1])), sys.argv[2]
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(job.num_threads)
    with tempfile.TemporaryDirectory(dir=job.folder) as folder:
        config, cache = opened(job, folder)
        split, shape = cache.split("train"), config.model.shape
        peaks = {"fp32": peak_of(shape, "fp32")}
        if arm == "ours":
            before, after, steps = learn_with_ours(config, cache, Path(folder))
        else:
            before, after, steps = learn_with_trainer(config, split, job, job.settings(arm), folder)
        # A machine's clock changes within minutes.
        peaks["fp32"] = (peaks["fp32"] + peak_of(shape, "fp32")) / 2
        if steps.precision not in peaks:
            peaks[steps.precision] = peak_of(shape, steps.precision)
        measured = Measured(
            **asdict(steps),
            num_target_tokens=int(split.target_lengths.sum()),
            num_real_tokens=int(split.target_lengths.sum() + split.source_lengths.sum()),
            flops=flops_of(config, split),
            peaks=peaks,
            first_loss=plain_loss(shape, before, split),
            loss=plain_loss(shape, after, split),
        )
    print(json.dumps(asdict(measured)))


def opened(job: Job, folder: str) -> tuple[ExperimentConfig, TokenCache]:
    """Returns the configuration of a round and its recipes as tokens."""
    everything = ("data.validation_fraction=0", "data.test_fraction=0", "evaluation.every_n_steps=null")
    cache_dir = Path(job.folder) / "cache"
    # Shared by all rounds, and with it what `hardware.compile=true` has compiled.
    places = (f"output_dir={folder}", f"data.cache_dir={cache_dir}")
    data = ("data=jsonl", f"data.path={job.examples_file}", "data.duplicates=keep", *everything, *places)
    config = compose([*job.overrides, *data])
    tokenizer = RecipeTokenizer.from_pretrained(str(Path(job.folder) / TOKENIZER))
    return config, build_or_open_cache(config.data, cache_dir=cache_dir, tokenizer=tokenizer)


def peak_of(shape: ModelShape, precision: str) -> float:
    """Returns the operations a second of the fastest of the network's larger matrix products."""
    width, inner = shape.d_model, shape.num_heads * shape.d_kv
    pairs = ((width, inner), (width, shape.d_ff), (shape.d_ff, width), (width, shape.vocab_size))
    sizes = [(_PRODUCT_ROWS, rows, columns) for rows, columns in pairs]
    return measure_matrix_peak("cpu", precision, sizes, seconds_per_size=_SECONDS_PER_PRODUCT)


def flops_of(config: ExperimentConfig, split: TokenSplit) -> float:
    """Returns the arithmetic of learning from every recipe once, without padding."""
    lengths = zip(split.source_lengths.tolist(), split.target_lengths.tolist(), strict=True)
    return sum(
        training_flops(
            config.model.shape,
            config.training.adapter,
            source_tokens=source,
            target_tokens=target,
            gradient_checkpointing=False,
        )
        for source, target in lengths
    )


def learn_with_ours(config: ExperimentConfig, cache: TokenCache, folder: Path) -> tuple[Weights, Weights, Steps]:
    """Learns as `task=train` does; returns the weights before and after, and the steps."""
    start = new_start(config, cache)
    warm = Workbench.build(config, cache, start, folder / "warm")
    with warm.windows(0) as windows:
        warm.step(next(windows))
    bench = Workbench.build(config, cache, start, folder / "run")
    before, steps, results = cloned(bench.loss.network), Steps(start.machinery.precision), []
    with steps.timed():
        results += [bench.step(window) for window in bench.windows(0)]
        float(results[-1].loss_sum)
    steps.num_steps = len(results)
    steps.num_examples = sum(result.num_examples for result in results)
    steps.num_computed_tokens = sum(result.num_computed_tokens for result in results)
    return before, cloned(bench.loss.network), steps


def learn_with_trainer(
    config: ExperimentConfig, split: TokenSplit, job: Job, settings: Settings, folder: str
) -> tuple[Weights, Weights, Steps]:
    """Learns with Seq2SeqTrainer; returns the weights before and after, and the steps."""
    seed_everything(config.seed)
    network = from_shape(config.model.shape, dtype=torch.float32, attention=settings.attention)
    if config.model.dropout is not None:
        set_dropout(network, config.model.dropout)
    before, steps = cloned(network), Steps(settings.precision)
    tokenizer = AutoTokenizer.from_pretrained(Path(job.folder) / TOKENIZER)
    rows = rows_of(split, config, settings)
    batch = [
        {name: values[i] for name, values in rows.items()} for i in range(min(config.training.batch_size, len(split)))
    ]
    warm = Dataset.from_list(batch)
    build = TrainerBuilder(config, settings, tokenizer, folder, job.max_seconds)
    build(copy.deepcopy(network), warm, Steps(settings.precision)).train()
    build(network, Dataset.from_dict(rows), steps).train()
    # Accelerate asks for a batch before the one in front of it is learnt from.
    steps.num_examples = min(steps.num_steps * config.training.batch_size, len(split))
    return before, cloned(network), steps


def rows_of(split: TokenSplit, config: ExperimentConfig, settings: Settings) -> dict[str, list[Any]]:
    """Returns the columns of a dataset for Seq2SeqTrainer."""
    sources = [split.source(index).tolist() for index in range(len(split))]
    targets = [split.target(index).tolist() for index in range(len(split))]
    if settings.is_padded:
        source_length, target_length = config.data.max_source_tokens, config.data.max_target_tokens
        masks = [[1] * len(source) + [0] * (source_length - len(source)) for source in sources]
        sources = [source + [split.pad_id] * (source_length - len(source)) for source in sources]
        targets = [target + [IGNORED_LABEL] * (target_length - len(target)) for target in targets]
    else:
        masks = [[1] * len(source) for source in sources]
    rows: dict[str, list[Any]] = {"input_ids": sources, "attention_mask": masks, "labels": targets}
    if settings.is_grouped:
        rows["length"] = (split.source_lengths + split.target_lengths).tolist()
    return rows


class TrainerBuilder:
    """Makes Seq2SeqTrainers that differ in network and data only.

    Args:
        config: of the round.
        settings: what it is told beyond the common part.
        tokenizer: pads.
        folder: for what it may write.
        max_seconds: it stops after the step that passes this.
    """

    def __init__(
        self, config: ExperimentConfig, settings: Settings, tokenizer: Any, folder: str, max_seconds: float | None
    ) -> None:
        self.config, self.settings, self.tokenizer = config, settings, tokenizer
        self.folder, self.max_seconds = folder, max_seconds

    def __call__(self, network: T5ForConditionalGeneration, rows: Dataset, steps: Steps) -> Seq2SeqTrainer:
        """Returns the trainer of one pass over the rows, which fills `steps`."""
        training, settings = self.config.training, self.settings
        more: dict[str, Any] = {}
        if settings.is_grouped:
            more = {"train_sampling_strategy": "group_by_length", "remove_unused_columns": False}
        arguments = Seq2SeqTrainingArguments(
            output_dir=self.folder,
            per_device_train_batch_size=training.batch_size // settings.accumulation,
            gradient_accumulation_steps=settings.accumulation,
            num_train_epochs=1,
            learning_rate=training.learning_rate,
            lr_scheduler_type="constant",
            bf16=settings.precision == "bf16",
            seed=self.config.seed,
            use_cpu=settings.device == "cpu",
            gradient_checkpointing=self.config.model.gradient_checkpointing,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            **more,
        )
        pad = default_data_collator if settings.is_padded else DataCollatorForSeq2Seq(self.tokenizer, model=network)
        trainer = Seq2SeqTrainer(
            model=network,
            args=arguments,
            train_dataset=rows,
            data_collator=Counted(pad, steps),
            callbacks=[Clock(steps, self.max_seconds)],
        )
        # T5 takes the number of target tokens and does nothing with it, so Trainer itself has to divide by the
        # micro-batches of a step. Without accumulation nothing changes.
        trainer.model_accepts_loss_kwargs = False
        trainer.remove_callback(PrinterCallback)
        return trainer


class Counted:
    """Puts batches together and counts their positions.

    Args:
        pad: makes a batch of rows.
        steps: where they are counted.
    """

    def __init__(self, pad: Any, steps: Steps) -> None:
        self.pad, self.steps = pad, steps

    def __call__(self, rows: list[dict[str, Any]]) -> Any:
        """Returns the batch."""
        batch = self.pad([{name: value for name, value in row.items() if name != "length"} for row in rows])
        self.steps.num_computed_tokens += batch["input_ids"].numel() + batch["labels"].numel()
        return batch


class Clock(TrainerCallback):
    """Times the loop of a Seq2SeqTrainer, and ends it when it takes too long.

    Args:
        steps: what is filled.
        max_seconds: ends the loop after the step that passes this; None never does.
    """

    def __init__(self, steps: Steps, max_seconds: float | None) -> None:
        self.steps, self.max_seconds = steps, max_seconds
        self._timed = steps.timed()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Starts the clocks."""
        self._begin = time.perf_counter()
        self._timed.__enter__()

    def on_step_end(self, _: Any, state: Any, control: Any, **__: Any) -> None:
        """Looks whether there is time left."""
        self.steps.num_steps = state.global_step
        if self.max_seconds is not None and time.perf_counter() - self._begin > self.max_seconds:
            control.should_training_stop = True

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Stops the clocks."""
        self._timed.__exit__(None, None, None)


def wait_for_device() -> None:
    """Returns when a GPU, if one is used, has done what it was told."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def cloned(network: torch.nn.Module) -> Weights:
    """Returns a copy of the weights, each once, by transformers' names."""
    return {name: tensor.detach().clone() for name, tensor in tuned_state(network).items()}


def plain_loss(shape: ModelShape, weights: Weights, split: TokenSplit) -> float:
    """Returns the mean cross-entropy of a target token under these weights, by transformers' forward pass in fp32."""
    network = from_shape(shape, dtype=torch.float32)
    network.load_state_dict(weights, strict=False)
    network.eval()
    total, order = 0.0, np.argsort(split.target_lengths, kind="stable").tolist()
    with torch.no_grad():
        for start in range(0, len(order), _EVALUATION_ROWS):
            indices = order[start : start + _EVALUATION_ROWS]
            input_ids = padded([split.source(index) for index in indices], split.pad_id)
            labels = padded([split.target(index) for index in indices], IGNORED_LABEL)
            lengths = torch.tensor(split.source_lengths[indices])
            mask = (torch.arange(input_ids.shape[1]) < lengths[:, None]).long()
            logits = network(input_ids=input_ids, attention_mask=mask, labels=labels).logits
            total += float(cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum"))
    return total / int(split.target_lengths.sum())


def padded(rows: list[npt.NDArray[Any]], padding: int) -> torch.Tensor:
    """Returns (len(rows), longest) int64."""
    longest = max(map(len, rows))
    return torch.tensor([[*row.tolist(), *[padding] * (longest - len(row))] for row in rows])


if __name__ == "__main__":
    main()
