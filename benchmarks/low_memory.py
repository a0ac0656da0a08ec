"""Compare ways of full tuning that need less memory: `low_memory.py [--steps N] [--seeds N]`.

`t5_tiny` learns the built-in recipes from random weights with each of them, from the same seeds and over the same
windows, and every run is evaluated on the same recipes. Adafactor's rate is relative to a weight's size, so it stands
beside itself in fp32; the others stand beside AdamW in fp32 at its rate.

Columns: the validation loss in nats a token at a third, two thirds and the whole of the run, as the mean over seeds,
with the lowest and highest of the last.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import mean

from recipe_exp import compose, train

ADAMW_RATE, ADAFACTOR_RATE = 5e-3, 5e-2
VARIANTS = {
    "AdamW, fp32": ["training=full", f"training.learning_rate={ADAMW_RATE}"],
    "AdamW, bf16 (full_bf16)": ["training=full_bf16", f"training.learning_rate={ADAMW_RATE}"],
    "AdamW in 8 bits, bf16 (full_8bit)": ["training=full_8bit", f"training.learning_rate={ADAMW_RATE}"],
    "Adafactor, fp32": [
        "training=full",
        "training/optimizer=adafactor",
        "training.max_grad_norm=null",
        f"training.learning_rate={ADAFACTOR_RATE}",
    ],
    "Adafactor in backward, bf16 (full_low_memory)": [
        "training=full_low_memory",
        f"training.learning_rate={ADAFACTOR_RATE}",
    ],
}


def losses(variant: list[str], seed: int, steps: int, folder: Path) -> list[float]:
    """Returns the validation losses of one run, in their order."""
    config = compose(
        [
            *variant,
            *("training.batch_size=16", "training.warmup_steps=30", f"training.max_steps={steps}", f"seed={seed}"),
            *("training.num_epochs=100", "training.checkpoint_every_n_steps=null", "hardware.num_threads=1"),
            *(f"evaluation.every_n_steps={steps // 3}", "evaluation.max_generated_examples=1"),
            *("evaluation.max_new_tokens=8", "tracking=journal_only", f"output_dir={folder}"),
        ]
    )
    found = train(config).folder
    assert found is not None
    lines = [json.loads(line)["metrics"] for line in (found / "metrics.jsonl").read_text().splitlines()]
    return [line["eval/loss"] for line in lines if "eval/loss" in line]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="of each run, a multiple of three")
    parser.add_argument("--seeds", type=int, default=2, help="runs of each variant")
    options = parser.parse_args()
    rows = []
    for name, variant in VARIANTS.items():
        with tempfile.TemporaryDirectory() as folder:
            runs = [losses(variant, seed, options.steps, Path(folder)) for seed in range(options.seeds)]
        columns = [mean(values) for values in zip(*runs, strict=True)]
        last = [run[-1] for run in runs]
        rows.append((name, columns, min(last), max(last)))
    print(f"\n{'':<46}{'1/3':>8}{'2/3':>8}{'end':>8}   lowest and highest")
    for name, columns, low, high in rows:
        print(f"{name:<46}{''.join(f'{value:8.4f}' for value in columns)}   {low:.4f} {high:.4f}")


if __name__ == "__main__":
    main()
