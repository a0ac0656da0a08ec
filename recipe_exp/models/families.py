"""The encoder-decoders that can be tuned: what transformers calls their networks, and what is unknown of each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_T5_ACTIVATIONS = ("relu", "gelu", "gelu_new", "silu")
_T5_DIMENSIONS = {
    name: name for name in ("d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads", "vocab_size")
}
_T5_SETTINGS = {"feed_forward_proj": (*_T5_ACTIVATIONS, *(f"gated-{name}" for name in _T5_ACTIVATIONS))}
_T5_BLOCK = re.compile(r"encoder\.block\.(\d+)\.")


@dataclass(frozen=True)
class Family:
    """Networks of one architecture.

    Attributes:
        network: name of the class in transformers.
        start_id: what the decoder reads first.
        pad_id: what fills up a batch.
        eos_id: what ends a text.
        tokenizer: type of the model in its tokenizer.json.
        dimensions: what its config.json calls those of `model.shape`; a width of heads that is left out follows from
            their number.
        settings: the values that others of its keys may have, where they are there.
        equal: keys whose values have to be those of other keys.
        block: matches the weights of an encoder block, with its number.
        max_positions: the key of the longest source or target; None where there is no longest.
        is_unpadded: whether its forward pass over concatenated texts is known here.
        is_converted: whether CTranslate2's own converter reads what transformers 5 makes of it.
        unknown: what was never measured of it, in one line; None where nothing is known to be missing.
    """

    network: str
    start_id: int
    pad_id: int
    eos_id: int
    tokenizer: str = "Unigram"
    dimensions: Mapping[str, str] = field(default_factory=lambda: _T5_DIMENSIONS)
    settings: Mapping[str, tuple[Any, ...]] = field(default_factory=lambda: _T5_SETTINGS)
    equal: Mapping[str, str] = field(default_factory=dict)
    block: re.Pattern[str] = _T5_BLOCK
    max_positions: str | None = None
    is_unpadded: bool = True
    is_converted: bool = True
    unknown: str | None = None


FAMILIES: Mapping[str, Family] = {
    "t5": Family("T5ForConditionalGeneration", start_id=0, pad_id=0, eos_id=1),
    "mt5": Family(
        "MT5ForConditionalGeneration",
        start_id=0,
        pad_id=0,
        eos_id=1,
        unknown="mT5's network is T5's, and so are memory and time; learning rates that suit it and the quality of its "
        "recipes were never measured",
    ),
    "bart": Family(
        "BartForConditionalGeneration",
        start_id=2,
        pad_id=1,
        eos_id=2,
        tokenizer="BPE",
        dimensions={
            "d_model": "d_model",
            "d_ff": "encoder_ffn_dim",
            "num_layers": "encoder_layers",
            "num_decoder_layers": "decoder_layers",
            "num_heads": "encoder_attention_heads",
            "vocab_size": "vocab_size",
        },
        settings={
            "activation_function": ("gelu", "relu", "gelu_new", "silu"),
            "pad_token_id": (1,),
            "eos_token_id": (2,),
            "decoder_start_token_id": (2,),
        },
        equal={"decoder_ffn_dim": "encoder_ffn_dim", "decoder_attention_heads": "encoder_attention_heads"},
        block=re.compile(r"(?:model\.)?encoder\.layers\.(\d+)\."),
        max_positions="max_position_embeddings",
        is_unpadded=False,
        is_converted=False,
        unknown="BART's network is not T5's: weights, memory and time are those of a T5 v1.1 of these dimensions and a "
        "guess; its own, learning rates that suit it and the quality of its recipes were never measured",
    ),
}
"""By the `model_type` of a config.json."""


def family_of(model_type: Any) -> Family | None:
    """Returns the family that a config.json names; None for one that cannot be tuned here."""
    return FAMILIES.get(model_type) if isinstance(model_type, str) else None
