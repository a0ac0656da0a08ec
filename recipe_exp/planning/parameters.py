"""The weights of a T5 v1.1 network, counted from its dimensions."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cache

from recipe_exp.config.lora_targets import adapted_modules
from recipe_exp.config.model import ModelShape
from recipe_exp.config.training import LoraConfig

# T5 sorts relative positions into this many buckets, in every size of the family.
RELATIVE_POSITION_BUCKETS = 32
# What `training.adapter.quantization=nf4` holds in 4 bits. T5 casts what `wo` reads to its weight's type, which a
# quantised one has not.
QUANTIZED_LAYERS = frozenset({"q", "k", "v", "o", "wi_0", "wi_1"})


@dataclass(frozen=True)
class WeightGroup:
    """Weights of one kind.

    Attributes:
        name: the layer's name in transformers, such as `q` or `wo`.
        size: (outputs, inputs) of a matrix, or (length,) of a vector.
        count: how many of them the network has.
        is_linear: whether a matrix product uses it.
    """

    name: str
    size: tuple[int, ...]
    count: int
    is_linear: bool = True

    @property
    def num_parameters(self) -> int:
        """Parameters of all weights of the group."""
        return self.count * math.prod(self.size)


def weight_groups(shape: ModelShape) -> list[WeightGroup]:
    """Returns every weight of the network once: embedding, attention, feed-forward, norms and output projection."""
    width, inner, hidden = shape.d_model, shape.num_heads * shape.d_kv, shape.d_ff
    num_blocks = shape.num_layers + shape.num_decoder_layers
    num_attentions = num_blocks + shape.num_decoder_layers
    num_norms = num_attentions + num_blocks + 2
    groups = [
        WeightGroup("shared", (shape.vocab_size, width), 1, is_linear=False),
        *(WeightGroup(name, (inner, width), num_attentions) for name in ("q", "k", "v")),
        WeightGroup("o", (width, inner), num_attentions),
        *(WeightGroup(name, (hidden, width), num_blocks) for name in ("wi_0", "wi_1")),
        WeightGroup("wo", (width, hidden), num_blocks),
        WeightGroup("relative_attention_bias", (RELATIVE_POSITION_BUCKETS, shape.num_heads), 2, is_linear=False),
        WeightGroup("layer_norm", (width,), num_norms, is_linear=False),
    ]
    if not shape.tie_word_embeddings:
        groups.append(WeightGroup("lm_head", (shape.vocab_size, width), 1))
    return groups


def lora_groups(shape: ModelShape, lora: LoraConfig) -> list[WeightGroup]:
    """Returns what LoRA adds to each adapted layer: two factors, with DoRA a magnitude of each output too."""
    found: Counter[tuple[str, tuple[int, int]]] = Counter()
    for (layer, size), count in adapted_layers(shape, lora.targets).items():
        found[layer.rpartition(".")[2], size] += count
    groups: list[WeightGroup] = []
    for (name, (outputs, inputs)), count in found.items():
        groups.append(WeightGroup(f"{name}.lora_A", (lora.rank, inputs), count))
        groups.append(WeightGroup(f"{name}.lora_B", (outputs, lora.rank), count))
        if lora.dora:
            groups.append(WeightGroup(f"{name}.magnitude", (outputs,), count))
    return groups


@cache
def adapted_layers(shape: ModelShape, targets: str | tuple[str, ...]) -> dict[tuple[str, tuple[int, int]], int]:
    """Returns how many blocks have an adapter on a layer such as `decoder.EncDecAttention.q`, by its name and size."""
    found: Counter[tuple[str, tuple[int, int]]] = Counter()
    for module, size in adapted_modules(shape, targets).items():
        stack, _, _, _, _, layer, name = module.split(".")
        found[f"{stack}.{layer}.{name}", size] += 1
    return dict(found)


def count_parameters(shape: ModelShape) -> int:
    """Returns the parameters of the network, shared ones counted once."""
    return sum(group.num_parameters for group in weight_groups(shape))


def count_lora_parameters(shape: ModelShape, lora: LoraConfig) -> int:
    """Returns the parameters that LoRA adds and tunes."""
    return sum(group.num_parameters for group in lora_groups(shape, lora))


def count_linear_parameters(shape: ModelShape) -> int:
    """Returns the parameters that matrix products use, the output projection among them whether it is tied or not."""
    tied_head = shape.vocab_size * shape.d_model if shape.tie_word_embeddings else 0
    return tied_head + sum(group.num_parameters for group in weight_groups(shape) if group.is_linear)


def count_text(count: float) -> str:
    """Returns a count in thousands, millions, billions or trillions, with three digits."""
    for unit, factor in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f}"
