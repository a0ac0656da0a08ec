"""Loss and gradient of one window, however it is cut, beside transformers' Seq2SeqTrainer on the same recipes.

    python benchmarks/loss_equality.py

One window of eight generated recipes, the same random weights, fp32, dropout 0. Ours is cut into fewer and more
micro-batches and shared by two processes; Seq2SeqTrainer runs the same eight as one batch and as two with four
accumulation steps. Every row shows loss and gradient norm and how far they are from the first row of its block.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, T5ForConditionalGeneration

from recipe_exp.config.compose import compose
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.data.loader import make_micro_batch, make_window
from recipe_exp.data.plan import WindowPlan
from recipe_exp.data.tokens.cache import TokenCache, build_or_open_cache
from recipe_exp.hardware.accelerator import create_accelerator, leave_processes, sum_over_processes
from recipe_exp.models.load import from_shape, set_dropout
from recipe_exp.models.sequence_loss import SequenceLoss
from recipe_exp.training.optimizers import build_optimizer
from recipe_exp.training.step import TrainingStep, seed_everything

NUM_RECIPES = 8
BUDGETS = {"1 micro-batch": 65_536, "2 or more": 1_200, "8, one recipe each": 16}


@dataclass(frozen=True)
class Row:
    """One measured way to take the window."""

    name: str
    loss: float
    grad_norm: float


def main() -> None:
    """Prints the table; with a rank in the environment, measures as one of several processes."""
    with tempfile.TemporaryDirectory() as folder:
        config = compose(["data.max_examples=200", "hardware=cpu"])
        cache = open_cache(config, Path(os.environ.get("CACHE", folder)))
        if "RANK" in os.environ:
            row = ours("two processes", config, cache, 1_200)
            if os.environ["RANK"] == "0":
                print(json.dumps([row.loss, row.grad_norm]))
            leave_processes()
            return
        print_block(
            "recipe_exp",
            [
                *(ours(name, config, cache, budget) for name, budget in BUDGETS.items()),
                two_processes(cache.folder.parent),
            ],
        )
        print_block(
            "Seq2SeqTrainer",
            [
                theirs("batch 8, no accumulation", config, cache, 8, 1, folder),
                theirs("batch 2, 4 accumulation steps", config, cache, 2, 4, folder),
            ],
        )


def open_cache(config: ExperimentConfig, folder: Path) -> TokenCache:
    """Returns the generated recipes as tokens."""
    return build_or_open_cache(config.data, cache_dir=folder, tokenizer=None, vocab_size=config.model.shape.vocab_size)


def network_of(config: ExperimentConfig) -> T5ForConditionalGeneration:
    """Returns the same random weights every time."""
    seed_everything(config.seed)
    network = from_shape(config.model.shape, dtype=torch.float32)
    set_dropout(network, 0.0)
    return network


def ours(name: str, config: ExperimentConfig, cache: TokenCache, budget: int) -> Row:
    """Measures one step of this project."""
    accelerator = create_accelerator(device="cpu", precision="fp32", num_threads=1)
    loss = SequenceLoss(network_of(config))
    step = TrainingStep(
        accelerator.prepare(loss),
        build_optimizer(loss, config.training),
        accelerator,
        lambda _: 0.0,
        max_grad_norm=None,
        label_smoothing=0.0,
        seed=0,
    )
    plan = WindowPlan(NUM_RECIPES, NUM_RECIPES, seed=0, fingerprint="")
    split = cache.split("train")
    window = make_window(split, plan, 0, budget, accelerator.process_index, accelerator.num_processes)
    result = step(window)
    (loss_sum,) = sum_over_processes(accelerator, [float(result.loss_sum)])
    return Row(name, loss_sum / window.num_target_tokens, float(result.grad_norm))


def two_processes(caches: Path) -> Row:
    """Measures the same step shared by two processes of gloo."""
    environment = {
        **os.environ,
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29671",
        "CACHE": str(caches),
    }
    command = [sys.executable, __file__]
    workers = [
        subprocess.Popen(
            command, env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stdout=subprocess.PIPE
        )
        for rank in range(2)
    ]
    shown = [worker.communicate()[0] for worker in workers]
    loss, grad_norm = json.loads(shown[0].splitlines()[-1])
    return Row("2 processes", loss, grad_norm)


def theirs(name: str, config: ExperimentConfig, cache: TokenCache, batch: int, accumulation: int, folder: str) -> Row:
    """Measures one optimizer step of Seq2SeqTrainer with its defaults."""
    split = cache.split("train")
    columns = make_micro_batch(split, np.arange(NUM_RECIPES)).padded(split.pad_id)
    rows = [
        {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        for input_ids, attention_mask, labels in zip(*columns, strict=True)
    ]
    arguments = Seq2SeqTrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        max_steps=1,
        learning_rate=0.0,
        max_grad_norm=1e9,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Seq2SeqTrainer(model=network_of(config), args=arguments, train_dataset=rows)
    trainer.train()
    logged: dict[str, Any] = next(entry for entry in trainer.state.log_history if "loss" in entry)
    return Row(name, float(logged["loss"]), float(logged["grad_norm"]))


def print_block(title: str, rows: list[Row]) -> None:
    """Prints rows with their ratio to the first."""
    print(f"{title:<34}{'loss':>12}{'grad norm':>12}{'loss / first':>16}{'norm / first':>16}")
    for row in rows:
        ratios = f"{row.loss / rows[0].loss:>16.8f}{row.grad_norm / rows[0].grad_norm:>16.8f}"
        print(f"  {row.name:<32}{row.loss:>12.5f}{row.grad_norm:>12.5f}{ratios}")


if __name__ == "__main__":
    main()
