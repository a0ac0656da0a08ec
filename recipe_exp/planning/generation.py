"""Memory of writing recipes in an evaluation: weights, optimizer state, and keys and values of what is written."""

from __future__ import annotations

from recipe_exp.config.evaluation import EvaluationConfig
from recipe_exp.planning.held import held
from recipe_exp.planning.inputs import Machine
from recipe_exp.planning.memory import OVERHEAD_BYTES, MemoryEstimate
from recipe_exp.planning.parameters import count_linear_parameters, count_lora_parameters
from recipe_exp.planning.remedies import Setup

# The most tokens of prompts and recipes that are written at the same time; more are hardly faster.
MAX_BATCH_TOKENS = 16_384
MOMENT = "generation of an evaluation"
# fp32 scores of the next token: the network's, and what the search makes of them.
_SCORE_COPIES = 3


def estimate_generation(
    setup: Setup,
    evaluation: EvaluationConfig,
    *,
    longest_source_tokens: int,
    device: str,
    num_at_once: int,
    is_training: bool = True,
) -> MemoryEstimate:
    """Returns the memory of one device at the end of the longest recipes of a batch.

    Gradients are not there: a step lets go of them when it ends.

    Args:
        setup: model, adapter and types.
        evaluation: how long a recipe may be, and how many beams.
        longest_source_tokens: of a prompt.
        device: `cpu` or `cuda`.
        num_at_once: recipes that are written at the same time.
        is_training: whether the optimizer's state is there.
    """
    state = held(setup.model, setup.training, is_bf16=setup.precision == "bf16")
    parts = {
        "weights": state.weights,
        "weight_casts": _casts(setup, state.weight_bytes),
        "optimizer": state.optimizer if is_training else 0,
        "generation": _row_bytes(setup, evaluation, longest_source_tokens) * num_at_once * evaluation.num_beams,
        "overhead": OVERHEAD_BYTES[device],
    }
    return MemoryEstimate({name: int(size) for name, size in parts.items()}, MOMENT)


def recipes_at_once(
    setup: Setup, evaluation: EvaluationConfig, source_tokens: int, machine: Machine, *, is_training: bool = True
) -> int:
    """Returns how many of the longest recipes are written at the same time, at least one.

    Args:
        setup: model, adapter and types.
        evaluation: how long a recipe may be, and how many beams.
        source_tokens: of the longest prompt.
        machine: the device, of which weights and optimizer state take their share.
        is_training: whether the optimizer's state is there.
    """
    none = estimate_generation(
        setup,
        evaluation,
        longest_source_tokens=source_tokens,
        device=machine.device,
        num_at_once=0,
        is_training=is_training,
    )
    row = _row_bytes(setup, evaluation, source_tokens) * evaluation.num_beams
    most = MAX_BATCH_TOKENS // _tokens_of_a_recipe(evaluation, source_tokens)
    return max(min(most, int((machine.usable_bytes - none.peak_bytes) // row)), 1)


def generation_tokens(
    setup: Setup, evaluation: EvaluationConfig, source_tokens: int, machine: Machine, *, is_training: bool = True
) -> int:
    """Returns the tokens of prompts and recipes that are written at the same time.

    Each row counts with its whole prompt and the longest recipe. It follows from the configuration and the size of the
    device alone, so that a run and its repetition write the same recipes together.

    Args:
        setup: model, adapter and types.
        evaluation: how long a recipe may be, and how many beams.
        source_tokens: of the longest prompt.
        machine: the device.
        is_training: whether the optimizer's state is there.
    """
    rows = recipes_at_once(setup, evaluation, source_tokens, machine, is_training=is_training)
    return rows * _tokens_of_a_recipe(evaluation, source_tokens)


def _tokens_of_a_recipe(evaluation: EvaluationConfig, source_tokens: int) -> int:
    return (source_tokens + evaluation.max_new_tokens) * evaluation.num_beams


def _row_bytes(setup: Setup, evaluation: EvaluationConfig, source_tokens: int) -> float:
    """Keys and values of every token in every decoder block, of itself and of the prompt, and the next token's scores.

    The encoder's output is kept. The block that is being computed has its keys or values twice: what was there, and
    that with one more token.
    """
    shape = setup.model.shape
    width = shape.num_heads * shape.d_kv * (2 if setup.precision == "bf16" else 4)
    written, read = evaluation.max_new_tokens * width, source_tokens * width
    scores = _SCORE_COPIES * 4 * shape.vocab_size
    encoded = source_tokens * shape.d_model * 4
    return 2 * shape.num_decoder_layers * (written + read) + written + encoded + scores


def _casts(setup: Setup, weight_bytes: int) -> int:
    """Copies in bf16 that autocast makes of fp32 matrices and keeps."""
    if setup.precision != "bf16" or weight_bytes == 2:
        return 0
    shape, adapter = setup.model.shape, setup.training.adapter
    return 2 * (count_linear_parameters(shape) if adapter.kind == "none" else count_lora_parameters(shape, adapter))
