"""How much arithmetic a training step is, and how long a device of a known peak takes for it."""

from __future__ import annotations

from dataclasses import dataclass

from recipe_exp.config.model import ModelShape
from recipe_exp.config.training import LoraConfig, NoAdapterConfig
from recipe_exp.planning.parameters import count_lora_parameters

# Assumed, not measured on the device at hand: the share of the dense matrix peak that training T5 with PyTorch's eager
# kernels reaches, the time between kernels included.
ASSUMED_UTILISATION = 0.30
# `hardware.peak_tflops` is a bf16 peak. TF32 runs at half of it on every NVIDIA GPU that has both.
_SHARE_OF_PEAK = {"bf16": 1.0, "tf32": 0.5}


@dataclass(frozen=True)
class ForwardFlops:
    """Floating-point operations of a forward pass over one example; a multiplication and an addition are two.

    Attributes:
        encoder: linear layers of the encoder.
        decoder: linear layers of the decoder, cross-attention left out.
        cross_attention: linear layers of the cross-attention, on both sides.
        scores: products of queries with keys and of weights with values, in all three attentions.
        head: the projection onto the vocabulary.
    """

    encoder: float
    decoder: float
    cross_attention: float
    scores: float
    head: float

    @property
    def blocks(self) -> float:
        """All but the projection onto the vocabulary: what gradient checkpointing repeats."""
        return self.encoder + self.decoder + self.cross_attention + self.scores

    @property
    def total(self) -> float:
        """The whole forward pass."""
        return self.blocks + self.head


def forward_flops(shape: ModelShape, source_tokens: float, target_tokens: float) -> ForwardFlops:
    """Returns the arithmetic of one example without padding.

    Args:
        shape: of the network.
        source_tokens: of the example.
        target_tokens: of the example.
    """
    width, inner = shape.d_model, shape.num_heads * shape.d_kv
    block = 4 * width * inner + 3 * width * shape.d_ff
    encoder_scores = shape.num_layers * source_tokens**2
    decoder_scores = shape.num_decoder_layers * target_tokens * (source_tokens + target_tokens)
    return ForwardFlops(
        encoder=2.0 * shape.num_layers * source_tokens * block,
        decoder=2.0 * shape.num_decoder_layers * target_tokens * block,
        cross_attention=4.0 * shape.num_decoder_layers * (source_tokens + target_tokens) * width * inner,
        scores=4.0 * inner * (encoder_scores + decoder_scores),
        head=2.0 * target_tokens * width * shape.vocab_size,
    )


def training_flops(
    shape: ModelShape,
    adapter: NoAdapterConfig | LoraConfig,
    *,
    source_tokens: float,
    target_tokens: float,
    gradient_checkpointing: bool,
) -> float:
    """Returns the arithmetic of learning from one example.

    The backward pass costs one forward pass for the gradient of the activations and one for that of the weights. With
    LoRA the second falls away in the frozen layers; gradient checkpointing runs the blocks forward once more.
    """
    forward = forward_flops(shape, source_tokens, target_tokens)
    # PyTorch stops a block's second pass once the last input that a gradient needs is there: that of `wo`.
    tokens = shape.num_layers * source_tokens + shape.num_decoder_layers * target_tokens
    recomputed = forward.blocks - 2.0 * tokens * shape.d_ff * shape.d_model if gradient_checkpointing else 0.0
    if not isinstance(adapter, LoraConfig):
        return 3 * forward.total + recomputed
    # An adapted layer's share of the tokens is that of all layers on average.
    per_parameter = 2 * (source_tokens * shape.num_layers + target_tokens * 2 * shape.num_decoder_layers)
    num_attentions = shape.num_layers + 2 * shape.num_decoder_layers
    adapters = per_parameter / num_attentions * count_lora_parameters(shape, adapter)
    # Scores have no weights: both of their factors need a gradient.
    return 2 * forward.total + forward.scores + 3 * adapters + recomputed


def known_peak(peak_tflops: float | None, precision: str) -> float | None:
    """Returns the operations a second of a device at this precision, from its dense bf16 peak; None if unknown."""
    share = _SHARE_OF_PEAK.get(precision)
    return None if peak_tflops is None or share is None else peak_tflops * 1e12 * share


def seconds_per_step(
    flops_per_example: float,
    *,
    batch_size: int,
    num_processes: int,
    peak_tflops: float | None,
    precision: str,
    utilisation: float = ASSUMED_UTILISATION,
) -> float | None:
    """Returns the seconds of one optimizer step, or None where no peak is known for the precision.

    Args:
        flops_per_example: of training, from `training_flops`.
        batch_size: examples of a step, over all processes.
        num_processes: devices that share the step; what they exchange is not counted.
        peak_tflops: dense bf16 peak of one device.
        precision: resolved, `fp32`, `tf32` or `bf16`.
        utilisation: share of the peak that is reached.
    """
    peak = known_peak(peak_tflops, precision)
    return None if peak is None else batch_size * flops_per_example / (num_processes * peak * utilisation)
