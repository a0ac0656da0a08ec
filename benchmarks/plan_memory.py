"""The plan beside the most bytes of tensors that are alive in a real step, for sizes, ways of tuning and types.

    python benchmarks/plan_memory.py

On the CPU, with random weights, after a first step that makes the optimizer's state. `t5_tiny` and the shape of
FLAN-T5 small take a window of one and of two micro-batches, with and without gradient checkpointing. `--models t5_tiny`
takes two minutes on two cores, `--models flan_t5_small --types fp32 --ways AdamW Adafactor LoRA` six; a processor that
has to emulate bf16 takes hours for the rest.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from live_bytes import RealStep, live_peak

from recipe_exp.config.compose import compose
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.planning.memory import estimate_memory
from recipe_exp.planning.remedies import Setup

MIB = 2**20
# Examples, source and target tokens of a micro-batch.
BATCHES = {"t5_tiny": (8, 32, 64), "flan_t5_small": (4, 32, 160)}
WAYS = {
    "AdamW": (("training=full",), ("fp32", "bf16")),
    "Adafactor": (("training=full", "training/optimizer=adafactor"), ("fp32", "bf16")),
    "LoRA": (("training=lora",), ("fp32", "bf16")),
    "DoRA": (("training=dora",), ("fp32", "bf16")),
    "QLoRA": (("training=qlora",), ("fp32", "bf16")),
    "bf16 AdamW": (("training=full_bf16",), ("bf16",)),
    "8-bit AdamW": (("training=full_8bit",), ("bf16",)),
    "low memory": (("training=full_low_memory",), ("bf16",)),
}


@dataclass(frozen=True)
class Case:
    """One row.

    Attributes:
        model: its option.
        way: of tuning.
        precision: `fp32` or `bf16`.
        is_checkpointed: whether blocks are recomputed.
        num_micro_batches: of the window.
    """

    model: str
    way: str
    precision: str
    is_checkpointed: bool
    num_micro_batches: int


def main() -> None:
    """Prints one row after the other, and the largest difference."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", nargs="+", default=list(BATCHES), choices=BATCHES)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--types", nargs="+", default=["fp32", "bf16"], choices=("fp32", "bf16"))
    options = parser.parse_args()
    print(f"{'model':<15}{'tuning':<13}{'type':<6}{'checkpointing':<15}{'parts':>5}{'plan':>12}{'actual':>12}{'':>9}")
    worst = 0.0
    for case in cases(options.models, options.ways, options.types):
        planned, actual = measure(case)
        difference = planned / actual - 1
        worst = max(worst, abs(difference))
        print(
            f"{case.model:<15}{case.way:<13}{case.precision:<6}{'yes' if case.is_checkpointed else 'no':<15}"
            f"{case.num_micro_batches:>5}{planned / MIB:>8,.1f} MiB{actual / MIB:>8,.1f} MiB{difference:>+9.1%}",
            flush=True,
        )
    print(f"largest difference {worst:.1%}")


def cases(models: list[str], ways: list[str], types: list[str]) -> Iterator[Case]:
    """Yields the rows; a step that updates in the backward pass takes its window at once."""
    for model, way, is_checkpointed, parts in itertools.product(models, ways, (False, True), (1, 2)):
        overrides, precisions = WAYS[way]
        if parts == 1 or "training=full_low_memory" not in overrides:
            yield from (
                Case(model, way, precision, is_checkpointed, parts) for precision in precisions if precision in types
            )


def measure(case: Case) -> tuple[int, int]:
    """Returns planned and actual bytes."""
    config = configured(case)
    num_examples, source, target = BATCHES[case.model]
    with tempfile.TemporaryDirectory() as folder:
        step = RealStep(config.model, config.training, precision=case.precision, base_folder=Path(folder) / "base")
        actual = live_peak(step, num_examples, source, target, case.num_micro_batches).peak
    estimate = estimate_memory(
        Setup(config.model, config.training, case.precision),
        attention="eager",
        micro_batch_tokens=num_examples * (source + target),
        source_tokens=source,
        target_tokens=target,
        device="cpu",
    )
    return estimate.tensor_bytes, actual


def configured(case: Case) -> ExperimentConfig:
    """Returns the configuration of a row."""
    return compose(
        [
            f"model={case.model}",
            *WAYS[case.way][0],
            "model.pretrained=false",
            f"model.gradient_checkpointing={str(case.is_checkpointed).lower()}",
            f"training.batch_size={BATCHES[case.model][0] * case.num_micro_batches}",
            "hardware=cpu",
        ]
    )


if __name__ == "__main__":
    main()
