"""What a forward pass keeps for its backward pass: a closed formula, tensor by tensor.

It follows `recipe_exp.models.unpadded` as the autograd graph holds it: linear layers keep what they read, a norm keeps
the residual stream, the gated GELU its two arguments, attention its queries, keys, values and weights. No token is
padding; what attention pads within its buckets of similar lengths is left out, but for places of keys up to a multiple.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from recipe_exp.config.model import ModelConfig
from recipe_exp.config.training import LoraConfig
from recipe_exp.planning.adapter_activations import AdapterActivations

_CROSS = "decoder.EncDecAttention"
# Places of keys are a multiple of it, as in `recipe_exp.models.unpadded.segments`.
KEY_MULTIPLE = 16
# Into how many parts a decoder's places are cut, and the pairs of tokens that one more costs as much as, as there.
MAX_PARTS = 8
BUCKET_COST = 16_384
# The inverse root mean square of a token, what dropout hashes for it at one place, and the total of a head's weights.
_FACTOR_BYTES = 4
_KEY_BYTES = 4
_TOTAL_BYTES = 4
# fp32 tensors of the feed-forward width that the gated GELU's backward pass has beside its arguments, where nothing is
# compiled: sigmoid, slope, derivative, and both results before and after their last product.
_EAGER_GELU_BYTES = {4: 24, 2: 30}
# The same of a pair of tokens for the gradient of attention weights.
_EAGER_SCORE_BYTES = {4: 16, 2: 20}


@dataclass(frozen=True)
class Batch:
    """A micro-batch.

    Attributes:
        num_examples: how many; a fraction stands for shorter examples that fill the budget.
        source_tokens: of each source; their mean where they differ, their longest where a network computes padding.
        target_tokens: the same of each target.
        spread: mean square of an example's tokens over the square of their mean; pairs of tokens grow with it.
    """

    num_examples: float
    source_tokens: float
    target_tokens: float
    spread: float = 1.0

    @property
    def all_source_tokens(self) -> float:
        """Source tokens of all examples."""
        return self.num_examples * self.source_tokens

    @property
    def all_target_tokens(self) -> float:
        """Target tokens of all examples."""
        return self.num_examples * self.target_tokens

    def pairs(self, query_tokens: float, key_tokens: float) -> float:
        """Pairs of tokens between sides of so many tokens each."""
        return self.num_examples * query_tokens * key_tokens * self.spread


class SavedActivations:
    """Bytes that autograd keeps between forward and backward, weights and logits left out.

    Args:
        model: dimensions and dropout; a dropout of null is the model's own and above zero.
        lora: the adapter, or None if every weight is tuned.
        is_bf16: whether matrix products run in bfloat16 under autocast.
        holds_bf16: whether the weights that are tuned are held in bfloat16.
        attention: `eager` or a fused kernel, which on a GPU keeps its output and the bias of each text instead of
            weights; `flex` keeps no bias of a text either, but under dropout keys and values twice.
        device: `cpu` or `cuda`; CUDA keeps the dropout masks of an adapter in one byte.
        is_compiled: whether elementwise arithmetic is fused, so that nothing stands between its steps.
    """

    def __init__(
        self,
        model: ModelConfig,
        lora: LoraConfig | None,
        *,
        is_bf16: bool,
        device: str,
        attention: str = "eager",
        holds_bf16: bool = False,
        is_compiled: bool = False,
    ) -> None:
        self.shape = model.shape
        self.lora = lora
        self.is_bf16 = is_bf16
        self.is_cuda = device == "cuda"
        self.has_fused_attention = attention != "eager" and self.is_cuda
        self.has_flex = attention.startswith("flex") and self.is_cuda
        self.crosses_with_flash = attention.endswith("_varlen")
        self.is_compiled = is_compiled
        self.key_bytes = _KEY_BYTES if model.dropout is None or model.dropout > 0.0 else 0
        self.inner = model.shape.num_heads * model.shape.d_kv
        self.compute_bytes = 2 if is_bf16 else 4
        self._adapter = (
            None if lora is None else AdapterActivations(model, lora, compute_bytes=self.compute_bytes, device=device)
        )
        # A frozen base is held in bf16 then. The residual stream between the layers has the weights' type.
        self.stream_bytes = 2 if is_bf16 and (lora is not None or holds_bf16) else 4

    def whole(self, batch: Batch) -> float:
        """Bytes of a forward pass that keeps everything."""
        return (
            self.shape.num_layers * self.encoder_layer(batch)
            + self.shape.num_decoder_layers * self.decoder_layer(batch)
            + self._encoder_output(batch)
            + self._ends(batch)
            + (self._biases(batch) if self.has_flex else 0.0)
        )

    def checkpointed(self, batch: Batch) -> float:
        """Bytes of a forward pass that keeps what every block is handed and recomputes the rest.

        A block is handed the residual stream, the update of the block before, the position bias of its stack and, in
        the decoder, the encoder's output.
        """
        shape = self.shape
        sources, targets = batch.all_source_tokens, batch.all_target_tokens
        streams = shape.num_layers * sources + shape.num_decoder_layers * targets
        # Nothing comes before the first block of a stack.
        updates = streams - sources - targets
        handed = shape.d_model * (self.stream_bytes * streams + self.compute_bytes * updates)
        encoded = shape.d_model * self.compute_bytes * batch.all_source_tokens
        return handed + encoded + self._biases(batch) + self._ends(batch)

    def encoder_layer(self, batch: Batch) -> float:
        """Bytes that one encoder block keeps."""
        attention = self._self_attention("encoder", batch, batch.source_tokens)
        return attention + self._feed_forward("encoder", batch.all_source_tokens)

    def decoder_layer(self, batch: Batch) -> float:
        """Bytes that one decoder block keeps."""
        return (
            self._self_attention("decoder", batch, batch.target_tokens)
            + self._cross_attention(batch)
            + self._feed_forward("decoder", batch.all_target_tokens)
        )

    def backward_of_decoder_layer(self, batch: Batch) -> float:
        """Bytes that come up at most in the backward pass of the last block, while what is kept is let go of."""
        return self._backward(batch, batch.target_tokens, "decoder")

    def backward_of_encoder_layer(self, batch: Batch) -> float:
        """The same of the encoder's last block."""
        return self._backward(batch, batch.source_tokens, "encoder")

    def _backward(self, batch: Batch, length: float, stack: str) -> float:
        """The gradient of the residual stream, and what the gated GELU or the attention weights take."""
        shape, size = self.shape, self.compute_bytes
        tokens, pairs = batch.num_examples * length, batch.pairs(length, _key_places(length))
        wo_input = self._linear_inputs(f"{stack}.DenseReluDense", ("wo",), shape.d_ff)
        gelu = 2 * size if self.is_compiled else _EAGER_GELU_BYTES[size] + (size if self.key_bytes else 0)
        scores = 2 * size if self.is_compiled else _EAGER_SCORE_BYTES[size]
        of_feed_forward = tokens * (shape.d_ff * (size + gelu) - wo_input)
        # The feed-forward layer's own are gone by then.
        of_pairs = self._biases(batch) if self.has_flex else pairs * shape.num_heads * (size + scores)
        of_attention = of_pairs - self._feed_forward(stack, tokens)
        stream = tokens * shape.d_model * self.stream_bytes
        return stream + max(of_feed_forward, of_attention)

    def _self_attention(self, stack: str, batch: Batch, length: float) -> float:
        """Bytes of a self-attention over texts of so many tokens, keys and values in their places among them."""
        layer = f"{stack}.SelfAttention"
        per_token = (
            self._norm()
            + self._linear_inputs(layer, ("q", "k", "v"), self.shape.d_model)
            + self._linear_inputs(layer, ("o",), self.inner)
            + self._scaled_outputs(layer, ("q", "k", "v", "o"))
            + self.inner * self.compute_bytes
            + self._output(layer)
        )
        places = _key_places(length)
        of_keys = self._keys_and_values(layer, batch.num_examples * places)
        weights = batch.pairs(length, places) * self.shape.num_heads * self.compute_bytes
        if self.has_flex:
            weights = 0.0
        elif stack == "decoder":
            weights *= _causal_share(length * places * batch.spread)
        return batch.num_examples * length * per_token + of_keys + weights

    def _cross_attention(self, batch: Batch) -> float:
        width, size = self.shape.d_model, self.compute_bytes
        sources = self._linear_inputs(_CROSS, ("k", "v"), width) if self._copies_inputs else 0.0
        per_target_token = (
            self._norm()
            + self._linear_inputs(_CROSS, ("q",), width)
            + self._linear_inputs(_CROSS, ("o",), self.inner)
            + self._scaled_outputs(_CROSS, ("q", "o"))
            + self.inner * size
            + self._output(_CROSS)
        )
        per_source_token = sources + self._scaled_outputs(_CROSS, ("k", "v"))
        places = _key_places(batch.source_tokens)
        of_keys = self._keys_and_values(_CROSS, batch.num_examples * places)
        # There is no bias here, so a fused kernel keeps nothing for a pair.
        weights = batch.pairs(batch.target_tokens, places) * self.shape.num_heads * size
        if self.has_fused_attention:
            weights = 0.0
        tokens = batch.all_target_tokens * per_target_token + batch.all_source_tokens * per_source_token
        return tokens + of_keys + weights

    def _is_flex(self, layer: str) -> bool:
        return self.has_flex and not (layer == _CROSS and self.crosses_with_flash)

    def _keys_and_values(self, layer: str, places: float) -> float:
        """Bytes of the keys and values of an attention."""
        copies = 2 if self._is_flex(layer) and self.key_bytes else 1
        return 2 * copies * self.inner * self.compute_bytes * places

    def _feed_forward(self, stack: str, tokens: float) -> float:
        layer = f"{stack}.DenseReluDense"
        width, hidden = self.shape.d_model, self.shape.d_ff
        return tokens * (
            self._norm()
            + self._linear_inputs(layer, ("wi_0", "wi_1"), width)
            + 2 * hidden * self.compute_bytes
            + self._linear_inputs(layer, ("wo",), hidden)
            + self._scaled_outputs(layer, ("wi_0", "wi_1", "wo"))
            + self.key_bytes
        )

    def _encoder_output(self, batch: Batch) -> float:
        """The encoder's output as the input of all cross-attentions, kept once where they need no copy."""
        if self._copies_inputs:
            return 0.0
        return batch.all_source_tokens * self._linear_inputs(_CROSS, ("k", "v"), self.shape.d_model)

    def _biases(self, batch: Batch) -> float:
        """Position biases of both stacks, for each pair of places in the longest text."""
        # A few places more than the longest text has.
        source, target = (_key_places(length) + KEY_MULTIPLE for length in (batch.source_tokens, batch.target_tokens))
        pairs = source**2 + target**2
        return self.shape.num_heads * self.stream_bytes * pairs * batch.spread

    def _ends(self, batch: Batch) -> float:
        """Final norms, and the keys of dropout before and after a stack."""
        tokens = batch.all_source_tokens + batch.all_target_tokens
        return tokens * (self._norm() + 2 * self.key_bytes)

    @property
    def _copies_inputs(self) -> bool:
        """Whether each adapted layer keeps a copy of its input: the dropped one, or the one cast there and back."""
        return self.lora is not None and (self.is_bf16 or self.lora.dropout > 0.0)

    def _linear_inputs(self, layer: str, names: tuple[str, ...], width: int) -> float:
        """Bytes a token for the inputs of linear layers that read the same values."""
        if self._adapter is None:
            return width * self.compute_bytes
        return self._adapter.inputs(layer, names, width, are_copied=self._copies_inputs)

    def _scaled_outputs(self, layer: str, names: tuple[str, ...]) -> float:
        """Bytes a token that DoRA keeps of what layers gave."""
        return 0.0 if self._adapter is None else self._adapter.scaled_outputs(layer, names)

    def _output(self, layer: str) -> float:
        """Bytes a token: what the attention gave, unless `o` keeps it as its input, and numbers of each head.

        A fused kernel keeps its own output and a sum of exponentials; otherwise, and with FlexAttention, there is a key
        of dropout too, and the output is what `o` reads.
        """
        kept, heads = float(self.inner * self.compute_bytes), self.shape.num_heads
        if self.has_fused_attention and not self._is_flex(layer):
            return kept + _TOTAL_BYTES * heads
        if self._adapter is None:
            kept = 0.0
        elif not self._copies_inputs:
            kept *= 1.0 - self._adapter.share(f"{layer}.o")
        return kept + (_TOTAL_BYTES + self.key_bytes) * heads

    def _norm(self) -> float:
        """Bytes a token: the residual stream, its factor, and the key of the dropout before it."""
        return self.stream_bytes * self.shape.d_model + _FACTOR_BYTES + self.key_bytes


def _key_places(length: float) -> float:
    """Places that a text of so many tokens is attended to in."""
    return math.ceil(length / KEY_MULTIPLE) * KEY_MULTIPLE


def _causal_share(pairs: float) -> float:
    """Share of the pairs of a text's tokens that causal attention computes, with a bucket for each text at worst."""
    parts = min(max(round(math.sqrt(pairs / (2 * BUCKET_COST))), 1), MAX_PARTS)
    return (1 + 1 / parts) / 2
