"""`model.`: which network is tuned and how it computes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from recipe_exp.config.base import Count, Section, Text

# Each is planned for and looked at by itself.
Layers = Annotated[int, Field(ge=1, le=1_000)]


class ModelShape(Section):
    """The dimensions of a T5 v1.1 network, so that memory and time are known before anything is downloaded."""

    vocab_size: Count
    """Rows of the embedding. A model with random weights gets a tokenizer of exactly this many pieces."""
    d_model: Count
    """Width of the residual stream."""
    d_kv: Count
    """Width of one attention head."""
    d_ff: Count
    """Width of the gated feed-forward layer."""
    num_layers: Layers
    """Encoder blocks."""
    num_decoder_layers: Layers
    """Decoder blocks."""
    num_heads: Count
    """Attention heads of every block."""
    tie_word_embeddings: bool = False
    """Whether the output projection shares the embedding's weights. FLAN-T5's does not."""


class ModelConfig(Section):
    """Which network is tuned and how it computes."""

    name: Annotated[str, Field(min_length=1)]
    """A Hugging Face model name, a local folder, or any label when `pretrained` is false."""
    revision: Text | None = None
    """Branch, tag or commit of the model on the hub; null takes its default branch."""
    pretrained: bool = True
    """Load weights and tokenizer of `name`. False starts from random weights in `shape` and builds a tokenizer."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Dropout probability of every layer; null keeps the model's own (0.1 for FLAN-T5)."""
    attention: Literal["auto", "eager", "sdpa", "sdpa_varlen", "flex", "flex_varlen"] = "auto"
    """Attention kernel. `auto` takes the fastest that computes T5's position bias correctly on the device; `flex` is
    PyTorch's FlexAttention, and `_varlen` flash-attn where there is no bias, from decoder to encoder."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: about a quarter more time for much less memory."""
    shape: ModelShape
    """The network's dimensions; checked against the checkpoint when one is loaded."""

    @field_validator("attention", mode="before")
    @classmethod
    def _refuse_flash_attention(cls, value: object) -> object:
        if isinstance(value, str) and value.startswith("flash"):
            raise ValueError(
                "flash attention's kernel takes no additive bias, which T5's positions are; "
                "use auto, or sdpa_varlen or flex_varlen for the attention that has none"
            )
        return value
