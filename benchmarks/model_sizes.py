"""Which model fits which card in which way of tuning, as the plan says it; nothing is loaded, so it takes seconds.

    python benchmarks/model_sizes.py

`state` is what is held from step to step: weights, and the gradients and optimizer state of what is tuned. A column of
a card says how many tokens a micro-batch takes under `hardware.micro_batch_tokens=auto`, with a `c` where that
needs `model.gradient_checkpointing=true`, or what the run needs where nothing fits. Recipes are typical ones of up to
768 tokens, on a GPU in bf16.
"""

from __future__ import annotations

from recipe_exp.config.compose import compose
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.files import size_text
from recipe_exp.planning.held import held
from recipe_exp.planning.inputs import Inputs, Machine
from recipe_exp.planning.lengths import estimated_lengths
from recipe_exp.planning.plan import Plan, build_plan
from recipe_exp.planning.remedies import Setup

GIB = 1024**3
SIZES = ("small", "base", "large", "xl", "xxl")
WAYS = {
    "full": "training=full",
    "low memory": "training=full_low_memory",
    "8-bit": "training=full_8bit",
    "LoRA": "training=lora",
    "QLoRA": "training=qlora",
}
CARDS = (24, 32, 80)


def main() -> None:
    """Prints the table."""
    print("\n".join(lines()))


def lines() -> list[str]:
    """Returns the table in Markdown."""
    table = [
        ["model", "tuning", "state", *(f"{size} GB" for size in CARDS)],
        ["---", "---", "---:", *("---:" for _ in CARDS)],
    ]
    ways = {name: compose(["model=flan_t5_small", option]) for name, option in WAYS.items()}
    for size in SIZES:
        model = compose([f"model=flan_t5_{size}", "training=full"]).model
        for name, way in ways.items():
            config = way.model_copy(update={"model": model})
            table.append([f"FLAN-T5 {size}", name, state(config), *(cell(config, card) for card in CARDS)])
    return [f"| {' | '.join(row)} |" for row in table]


def state(config: ExperimentConfig) -> str:
    """Returns the size of what is held from step to step."""
    found = held(config.model, config.training, is_bf16=True)
    gradients = 0 if config.training.update_in_backward else found.gradients
    return size_text(found.weights + gradients + found.optimizer)


def cell(config: ExperimentConfig, card: int) -> str:
    """Returns what a card has room for."""
    plain = plan_of(config, card, is_checkpointed=False)
    if plain.fits:
        return f"{plain.micro_batch_tokens:,}"
    checkpointed = plan_of(config, card, is_checkpointed=True)
    if checkpointed.fits:
        return f"{checkpointed.micro_batch_tokens:,} c"
    return f"needs {size_text(checkpointed.peak_bytes)}"


def plan_of(config: ExperimentConfig, card: int, *, is_checkpointed: bool) -> Plan:
    """Returns the plan on a card of so many GiB."""
    model = config.model.model_copy(update={"gradient_checkpointing": is_checkpointed})
    machine = Machine("cuda", "sdpa", card * GIB)
    lengths = estimated_lengths(config.data, None)
    setup = Setup(model, config.training, "bf16", is_compiled=True)
    return build_plan(Inputs(setup, config.hardware, config.data, config.evaluation, machine, lengths))


if __name__ == "__main__":
    main()
