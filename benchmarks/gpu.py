"""The plan beside what a GPU really does, under a cap of memory: peak, recipes a second, share of the peak arithmetic.

    python benchmarks/gpu.py [--cap-gb 32] [--hardware rtx5090] [--rows base large xl xxl xxl-lora] [--against trainer]
    python benchmarks/gpu.py --device cpu --model-scale tiny

Random weights of the real shapes, typical recipes, windows of 32 or 16 (4 for tiny networks). On a GPU every row has a
process of its own, the cap is `torch.cuda.set_per_process_memory_fraction`, and the actual peak is
`torch.cuda.max_memory_allocated`, held against the plan's tensors; `reserved` is what PyTorch's allocator took for it,
fragmentation included. With `--against trainer` Seq2SeqTrainer learns from the same windows at its best: bf16, grouped
by length, a whole window at once, with the same checkpointing; it has no step in low memory. On a CPU the actual peak
is the live tensors of one more step, there is no cap, and `--model-scale tiny` shrinks the networks, which proves the
script and nothing else.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from datasets import Dataset
from live_bytes import RealStep, counted, made_up_texts
from throughput_arms import Steps, TrainerBuilder
from throughput_job import Settings
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from recipe_exp.config.compose import compose
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.model import ModelConfig
from recipe_exp.data.loader import Window
from recipe_exp.data.plan import plan_micro_batches
from recipe_exp.models.attention_choice import choose_attention
from recipe_exp.models.finetuned import build_trainable
from recipe_exp.planning.fitting import auto_micro_batch_tokens
from recipe_exp.planning.inputs import Machine
from recipe_exp.planning.lengths import LengthArray, Lengths, batch_of, estimated_lengths
from recipe_exp.planning.memory import GIB, estimate_batch
from recipe_exp.planning.remedies import Setup
from recipe_exp.planning.timing import flops_per_example
from recipe_exp.tasks.building import attention_setting

ROWS = {
    "base": ("FLAN-T5 base, full", ("model=flan_t5_base", "training=full"), 32),
    "large": ("FLAN-T5 large, full", ("model=flan_t5_large", "training=full"), 32),
    "xl": ("FLAN-T5 XL, low memory", ("model=flan_t5_xl", "training=full_low_memory"), 16),
    "xxl": ("FLAN-T5 XXL, low memory", ("model=flan_t5_xxl", "training=full_low_memory"), 16),
    "xxl-lora": ("FLAN-T5 XXL, LoRA", ("model=flan_t5_xxl", "training=lora"), 16),
}
Texts: TypeAlias = tuple[LengthArray, LengthArray]
CHECKPOINTED = ("large", "xl", "xxl", "xxl-lora")
NUM_STEPS = {"cuda": 8, "cpu": 1}
TINY_BATCH = 4


@dataclass(frozen=True)
class Measured:
    """One row's figures.

    Attributes:
        micro_batch_tokens: of the plan.
        planned_bytes: tensors at the fullest moment of the windows that were taken; None of what has no plan.
        actual_bytes: the same, counted; None where nothing counts them.
        reserved_bytes: taken from the device; None on a CPU.
        recipes_per_second: after the first step.
        utilisation: share of the bf16 peak; None where no peak is known.
    """

    micro_batch_tokens: int
    planned_bytes: int | None
    actual_bytes: int | None
    reserved_bytes: int | None
    recipes_per_second: float
    utilisation: float | None


def main() -> None:
    """Prints the table; with `--row`, measures one row and prints it as JSON."""
    options = parse()
    if options.row:
        print(json.dumps(asdict(MEASURES[options.row_of](options.row, options))))
        return
    header = f"{'':<25}{'batch':>6}{'micro-batch':>12}{'planned':>10}{'actual':>10}{'':>8}{'reserved':>10}"
    print(f"{header}{'recipes/s':>11}{'of peak':>9}")
    for name in options.rows:
        label, batch = ROWS[name][0], batch_size_of(name, options)
        try:
            row = measured(name, options, "ours")
        except RuntimeError as error:  # such as out of memory, where the other rows still say something
            print(f"{label:<25}{batch:>6}  {last_words(error)}", flush=True)
            continue
        print(f"{label:<25}{batch:>6}{figures(row)}", flush=True)
        if options.against == "trainer" and not configured(name, options).training.update_in_backward:
            print(f"{'  Seq2SeqTrainer':<25}{batch:>6}{compared(row, name, options)}", flush=True)


def parse() -> argparse.Namespace:
    """Returns the command's options."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--cap-gb", type=float, default=32.0)
    parser.add_argument("--hardware", default="auto", help="of conf/hardware, for the peak of the arithmetic")
    parser.add_argument("--model-scale", choices=("full", "tiny"), default="full")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--against", choices=("trainer",))
    parser.add_argument("--row", choices=ROWS)
    parser.add_argument("--row-of", choices=MEASURES, default="ours")
    return parser.parse_args()


def figures(row: Measured) -> str:
    """Returns the columns of a row."""
    reserved = "" if row.reserved_bytes is None else size(row.reserved_bytes)
    share = "" if row.utilisation is None else f"{row.utilisation:.0%}"
    planned = "" if row.planned_bytes is None else size(row.planned_bytes)
    actual = "" if row.actual_bytes is None else size(row.actual_bytes)
    is_held = row.planned_bytes is not None and row.actual_bytes is not None
    difference = f"{row.planned_bytes / row.actual_bytes - 1:+.1%}" if is_held else ""
    return (
        f"{row.micro_batch_tokens:>12,}{planned:>10}{actual:>10}{difference:>8}"
        f"{reserved:>10}{row.recipes_per_second:>11,.1f}{share:>9}"
    )


def compared(ours: Measured, name: str, options: argparse.Namespace) -> str:
    """Returns the columns of Seq2SeqTrainer, and how many times as fast the row above is."""
    try:
        theirs = measured(name, options, "trainer")
    except RuntimeError as error:
        return f"  {last_words(error)}"
    faster = ours.recipes_per_second / theirs.recipes_per_second
    return f"{figures(theirs)}   ours is {faster:.2f} times as fast"


def last_words(error: Exception) -> str:
    """Returns the end of an error's message, such as what ran out."""
    return str(error).strip().splitlines()[-1][:120]


def size(number: int) -> str:
    """Returns bytes in GiB, or MiB below one."""
    return f"{number / GIB:.2f} GiB" if number >= GIB else f"{number / 2**20:.1f} MiB"


def measured(name: str, options: argparse.Namespace, whose: str) -> Measured:
    """Takes some steps of a row, on a GPU in a process of its own, whose memory nothing else has touched.

    Raises:
        RuntimeError: if it fails; the message ends with its last words.
    """
    if options.device == "cpu":
        return MEASURES[whose](name, options)
    done = subprocess.run(
        [sys.executable, *sys.argv, "--row", name, "--row-of", whose], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or f"killed ({done.returncode})")
    return Measured(**json.loads(done.stdout.strip().splitlines()[-1]))


def measure(name: str, options: argparse.Namespace) -> Measured:
    """Takes some steps of a row."""
    config, device = configured(name, options), options.device
    precision = "bf16"
    setup = Setup(config.model, config.training, precision, is_compiled=device == "cuda")
    attention = choose_attention("auto", attention_setting(setup, device)).kernel
    lengths = estimated_lengths(config.data, None)
    cap = capped(options)
    tokens = auto_micro_batch_tokens(setup, Machine(device, attention, cap), lengths.longest_tokens)
    windows = [cut(setup, lengths, tokens, seed) for seed in range(NUM_STEPS[device])]
    shapes = [batch_of(*texts) for window in windows for texts in window]
    planned = max(estimate_batch(setup, each, attention=attention, device=device).tensor_bytes for each in shapes)
    with tempfile.TemporaryDirectory() as folder:
        step = RealStep(
            config.model,
            config.training,
            precision=precision,
            attention=attention,
            device=device,
            is_compiled=setup.is_compiled,
            base_folder=Path(folder) / "base",
        )
        take(step, windows[0])
        seconds, actual, reserved = timed(step, windows, device)
    rate = len(windows) * setup.training.batch_size / seconds
    return Measured(tokens, planned, actual, reserved, rate, utilisation(config, setup, lengths, rate))


def measure_trainer(name: str, options: argparse.Namespace) -> Measured:
    """Lets Seq2SeqTrainer learn from the windows of a row, after one more of them."""
    config, device = configured(name, options), options.device
    setup = Setup(config.model, config.training, "bf16")
    lengths = estimated_lengths(config.data, None)
    capped(options)
    whole = lengths.longest_tokens * config.training.batch_size
    windows = [cut(setup, lengths, whole, seed) for seed in range(NUM_STEPS[device])]
    rows = [row for window in windows for texts in window for row in rows_of(config.model.shape.vocab_size, texts)]
    settings = Settings(precision="bf16", is_grouped=True, device=device)
    vocabulary = Tokenizer(WordLevel({"<pad>": 0}, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=vocabulary, pad_token="<pad>")
    with tempfile.TemporaryDirectory() as folder:
        network = build_trainable(
            config.model, config.training, precision="bf16", attention="sdpa", base_folder=Path(folder) / "base"
        )
        build = TrainerBuilder(config, settings, tokenizer, folder, None)
        build(network, Dataset.from_list(rows[: config.training.batch_size]), Steps("bf16")).train()
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        steps = Steps("bf16")
        build(network, Dataset.from_list(rows), steps).train()
    on_gpu = device == "cuda"
    actual = torch.cuda.max_memory_allocated() if on_gpu else None
    reserved = torch.cuda.max_memory_reserved() if on_gpu else None
    rate = len(rows) / steps.wall_seconds
    return Measured(whole, None, actual, reserved, rate, utilisation(config, setup, lengths, rate))


def rows_of(vocab_size: int, texts: Texts) -> list[dict[str, Any]]:
    """Returns random recipes of these lengths as rows for Seq2SeqTrainer."""
    rows = []
    for source, target in zip(*(lengths.tolist() for lengths in texts), strict=True):
        input_ids, labels = (torch.randint(2, vocab_size, (length,)).tolist() for length in (source, target))
        length = source + target
        rows.append({"input_ids": input_ids, "attention_mask": [1] * source, "labels": labels, "length": length})
    return rows


def capped(options: argparse.Namespace) -> int:
    """Returns the bytes that may be used, and holds PyTorch to them on a GPU."""
    cap = int(options.cap_gb * GIB)
    if options.device == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(cap / total, 1.0))
    return cap


def utilisation(config: ExperimentConfig, setup: Setup, lengths: Lengths, rate: float) -> float | None:
    """Returns the share of the configured peak that so many recipes a second are."""
    peak = config.hardware.peak_tflops
    return None if peak is None else rate * flops_per_example(setup, lengths) / (peak * 1e12)


def timed(step: RealStep, windows: list[list[Texts]], device: str) -> tuple[float, int, int | None]:
    """Returns the seconds of all windows, the peak of live tensors, and what the allocator took."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    for window in windows:
        take(step, window)
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter() - begin, torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    seconds = time.perf_counter() - begin
    with counted(step) as live:
        for window in windows:
            take(step, window)
    return seconds, live.peak, None


def take(step: RealStep, window: list[Texts]) -> None:
    """Learns from random recipes of these lengths."""
    parts = tuple(made_up_texts(step.shape.vocab_size, *texts) for texts in window)
    count = sum(len(part.indices) for part in parts)
    sources = sum(len(part.source_ids) for part in parts)
    targets = sum(len(part.target_ids) for part in parts)
    step.step(Window(0, 0, count, sources, targets, sources + targets, parts))


def cut(setup: Setup, lengths: Lengths, tokens: int, seed: int) -> list[Texts]:
    """Returns the lengths of sources and targets in each micro-batch of a window that is drawn from the lengths."""
    chosen = np.random.default_rng(seed).integers(len(lengths.targets), size=setup.training.batch_size)
    sources, targets = lengths.sources[chosen], lengths.targets[chosen]
    budget = None if setup.training.update_in_backward else tokens
    (parts,) = plan_micro_batches(sources, targets, budget, 1)
    return [(sources[part], targets[part]) for part in parts]


def batch_size_of(name: str, options: argparse.Namespace) -> int:
    """Returns the recipes of a row's window."""
    return TINY_BATCH if options.model_scale == "tiny" else ROWS[name][2]


def configured(name: str, options: argparse.Namespace) -> ExperimentConfig:
    """Returns the configuration of a row."""
    overrides = ROWS[name][1]
    config = compose(
        [
            *overrides,
            "model.pretrained=false",
            f"model.gradient_checkpointing={str(name in CHECKPOINTED).lower()}",
            f"training.batch_size={batch_size_of(name, options)}",
            f"hardware={options.hardware}",
        ]
    )
    return config.model_copy(update={"model": tiny(config.model)}) if options.model_scale == "tiny" else config


def tiny(model: ModelConfig) -> ModelConfig:
    """Returns a network of the same kind and order of sizes that a CPU can compute."""
    shape = model.shape
    update = {
        "vocab_size": 1024,
        "d_model": shape.d_model // 16,
        "d_ff": shape.d_ff // 16,
        "num_heads": max(shape.num_heads // 16, 1),
        "num_layers": 3,
        "num_decoder_layers": 3,
    }
    return model.model_copy(update={"shape": shape.model_copy(update=update)})


MEASURES = {"ours": measure, "trainer": measure_trainer}


if __name__ == "__main__":
    main()
