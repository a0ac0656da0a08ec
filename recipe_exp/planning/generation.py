"""Memory of writing recipes in an evaluation: weights, optimizer state, and keys and values of what is written."""

from __future__ import annotations

from recipe_exp.config.evaluation import EvaluationConfig
from recipe_exp.planning.held import held
from recipe_exp.planning.memory import OVERHEAD_BYTES, MemoryEstimate
from recipe_exp.planning.parameters import count_linear_parameters, count_lora_parameters
from recipe_exp.planning.remedies import Setup

# Tokens of prompts and recipes that are written at the same time, as `recipe_exp.evaluation.generation` has it.
BATCH_TOKENS = 16_384
MOMENT = "generation of an evaluation"
# fp32 scores of the next token: the network's, and what the search makes of them.
_SCORE_COPIES = 3


def estimate_generation(
    setup: Setup, evaluation: EvaluationConfig, *, longest_source_tokens: int, device: str
) -> MemoryEstimate:
    """Returns the memory of one device at the end of the longest recipes of a batch.

    Gradients are not there: a step lets go of them when it ends.

    Args:
        setup: model, adapter and types.
        evaluation: how many recipes, how long, and how many beams.
        longest_source_tokens: of a prompt.
        device: `cpu` or `cuda`.
    """
    state = held(setup.model, setup.training, is_bf16=setup.precision == "bf16")
    parts = {
        "weights": state.weights,
        "weight_casts": _casts(setup, state.weight_bytes),
        "optimizer": state.optimizer,
        "generation": _caches(setup, evaluation, longest_source_tokens),
        "overhead": OVERHEAD_BYTES[device],
    }
    return MemoryEstimate({name: int(size) for name, size in parts.items()}, MOMENT)


def num_at_once(evaluation: EvaluationConfig, source_tokens: int) -> int:
    """Returns how many recipes are written at the same time."""
    tokens = (source_tokens + evaluation.max_new_tokens) * evaluation.num_beams
    return min(max(BATCH_TOKENS // tokens, 1), evaluation.max_generated_examples)


def _caches(setup: Setup, evaluation: EvaluationConfig, source_tokens: int) -> float:
    """Keys and values of every token in every decoder block, of itself and of the prompt, and the next token's scores.

    The encoder's output is kept. The block that is being computed has its keys or values twice: what was there, and
    that with one more token.
    """
    shape = setup.model.shape
    rows = num_at_once(evaluation, source_tokens) * evaluation.num_beams
    width = shape.num_heads * shape.d_kv * (2 if setup.precision == "bf16" else 4)
    written = rows * evaluation.max_new_tokens * width
    read = rows * source_tokens * width
    scores = _SCORE_COPIES * 4 * rows * shape.vocab_size
    encoded = rows * source_tokens * shape.d_model * 4
    return 2 * shape.num_decoder_layers * (written + read) + written + encoded + scores


def _casts(setup: Setup, weight_bytes: int) -> int:
    """Copies in bf16 that autocast makes of fp32 matrices and keeps."""
    if setup.precision != "bf16" or weight_bytes == 2:
        return 0
    shape, adapter = setup.model.shape, setup.training.adapter
    return 2 * (count_linear_parameters(shape) if adapter.kind == "none" else count_lora_parameters(shape, adapter))
