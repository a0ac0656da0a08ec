"""What a forward pass over padded rows keeps for its backward pass: a closed formula, tensor by tensor.

For networks that are computed by `transformers` itself, which are no T5; their blocks are taken to be like its T5's
under PyTorch's eager mode, as the autograd graph holds them: the gated GELU alone keeps six tensors of the feed-forward
width.
"""

from __future__ import annotations

import math

from recipe_exp.config.model import ModelConfig
from recipe_exp.config.training import LoraConfig
from recipe_exp.planning.activations import Batch
from recipe_exp.planning.adapter_activations import AdapterActivations

# The memory-efficient kernel reads its mask in rows of a multiple of eight values.
_MASK_ALIGNMENT = 8
_CROSS = "decoder.EncDecAttention"


class PaddedActivations:
    """Bytes that autograd keeps between forward and backward, weights and logits left out.

    Args:
        model: dimensions and dropout; a dropout of null is the model's own and above zero.
        lora: the adapter, or None if every weight is tuned.
        is_bf16: whether matrix products run in bfloat16 under autocast.
        holds_bf16: whether the weights that are tuned are held in bfloat16.
        attention: a kernel of `model.attention`.
        device: `cpu` or `cuda`. CUDA keeps dropout masks in one byte and runs powers and softmax in fp32 under
            autocast; the CPU keeps masks in the dropped value's type and runs `sdpa` as eager attention.
    """

    def __init__(
        self,
        model: ModelConfig,
        lora: LoraConfig | None,
        *,
        is_bf16: bool,
        attention: str,
        device: str,
        holds_bf16: bool = False,
    ) -> None:
        self.shape = model.shape
        self.lora = lora
        self.is_bf16 = is_bf16
        self.is_cuda = device == "cuda"
        self.is_sdpa = attention != "eager"
        self.has_fused_attention = self.is_sdpa and self.is_cuda
        self.has_dropout = model.dropout is None or model.dropout > 0.0
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
        )

    def checkpointed(self, batch: Batch) -> float:
        """Bytes of a forward pass that keeps the input of every block and recomputes the rest."""
        width = self.shape.d_model * self.stream_bytes
        per_block = (
            self.shape.num_layers * batch.all_source_tokens + self.shape.num_decoder_layers * batch.all_target_tokens
        )
        return width * (per_block + batch.all_source_tokens) + self._masks_and_biases(batch) + self._ends(batch)

    def encoder_layer(self, batch: Batch) -> float:
        """Bytes that one encoder block keeps."""
        tokens = batch.all_source_tokens
        attention = self._self_attention("encoder", tokens, batch.source_tokens, batch.num_examples)
        return attention + self._feed_forward("encoder", tokens)

    def decoder_layer(self, batch: Batch) -> float:
        """Bytes that one decoder block keeps."""
        tokens = batch.all_target_tokens
        # Targets need no padding mask, so the fused kernel's bias is shared by all examples.
        return (
            self._self_attention("decoder", tokens, batch.target_tokens, min(batch.num_examples, 1.0))
            + self._cross_attention(batch)
            + self._feed_forward("decoder", tokens)
        )

    def backward_of_decoder_layer(self, batch: Batch) -> float:
        """Bytes that come up in the backward pass of a decoder block: gradients of the feed-forward layer."""
        return self._gradients(batch.all_target_tokens)

    def backward_of_encoder_layer(self, batch: Batch) -> float:
        """The same of an encoder block."""
        return self._gradients(batch.all_source_tokens)

    def _gradients(self, tokens: float) -> float:
        return tokens * (2 * self.shape.d_ff * self.compute_bytes + 2 * self.shape.d_model * self.stream_bytes)

    def _self_attention(self, stack: str, tokens: float, length: float, num_biases: float) -> float:
        layer = f"{stack}.SelfAttention"
        per_token = (
            self._norm()
            + self._linear_inputs(layer, ("q", "k", "v"), self.shape.d_model)
            + self._attention_output(layer)
            + self._scaled_outputs(layer, ("q", "k", "v", "o"))
            + self._dropout_mask(self.shape.d_model, self.compute_bytes)
            + 3 * self.inner * self.compute_bytes
        )
        return tokens * per_token + self._scores(tokens, length, length, num_biases)

    def _cross_attention(self, batch: Batch) -> float:
        width = self.shape.d_model
        sources = self._linear_inputs(_CROSS, ("k", "v"), width) if self._copies_inputs else 0.0
        per_target_token = (
            self._norm()
            + self._linear_inputs(_CROSS, ("q",), width)
            + self._attention_output(_CROSS)
            + self._scaled_outputs(_CROSS, ("q", "o"))
            + self._dropout_mask(width, self.compute_bytes)
            + self.inner * self.compute_bytes
        )
        per_source_token = sources + self._scaled_outputs(_CROSS, ("k", "v")) + 2 * self.inner * self.compute_bytes
        scores = self._scores(batch.all_target_tokens, batch.target_tokens, batch.source_tokens, batch.num_examples)
        return batch.all_target_tokens * per_target_token + batch.all_source_tokens * per_source_token + scores

    def _feed_forward(self, stack: str, tokens: float) -> float:
        layer = f"{stack}.DenseReluDense"
        width, hidden = self.shape.d_model, self.shape.d_ff
        # Input, tanh, half of the input, one plus tanh, GELU and gate; CUDA's autocast runs the power in fp32, which
        # makes all but two of them fp32.
        gelu = 20 if self.is_bf16 and self.is_cuda else 6 * self.compute_bytes
        return tokens * (
            self._norm()
            + self._linear_inputs(layer, ("wi_0", "wi_1"), width)
            + gelu * hidden
            + self._dropout_mask(hidden, self.compute_bytes)
            + self._linear_inputs(layer, ("wo",), hidden)
            + self._scaled_outputs(layer, ("wi_0", "wi_1", "wo"))
            + self._dropout_mask(width, self.compute_bytes)
        )

    def _encoder_output(self, batch: Batch) -> float:
        """The encoder's output as the input of all cross-attentions, kept once where they need no copy."""
        if self._copies_inputs:
            return 0.0
        return batch.all_source_tokens * self._linear_inputs(_CROSS, ("k", "v"), self.shape.d_model)

    def _masks_and_biases(self, batch: Batch) -> float:
        """Padding masks and position biases, which all blocks of a stack are handed."""
        source, target = batch.source_tokens, batch.target_tokens
        masks = batch.num_examples * source * (source + target)
        if not self.is_sdpa:
            masks = self.stream_bytes * (masks + batch.num_examples * target * target)
        biases = source * source + target * target + source * target
        return masks + self.shape.num_heads * self.stream_bytes * biases

    def _ends(self, batch: Batch) -> float:
        """Dropout after the embeddings, final norms and their dropout."""
        tokens = batch.all_source_tokens + batch.all_target_tokens
        return tokens * (self._norm() + 2 * self._dropout_mask(self.shape.d_model, self.stream_bytes))

    @property
    def _copies_inputs(self) -> bool:
        """Whether each linear layer keeps a copy of its input: in bf16 the cast one, in LoRA the dropped one."""
        is_cast = self.is_bf16 and (self.lora is not None or self.stream_bytes == 4)
        return is_cast or (self.lora is not None and self.lora.dropout > 0.0)

    def _linear_inputs(self, layer: str, names: tuple[str, ...], width: int) -> float:
        """Bytes a token for the inputs of linear layers that read the same values."""
        if self._adapter is None:
            return width * self.compute_bytes * (len(names) if self._copies_inputs else 1)
        return self._adapter.inputs(layer, names, width, are_copied=self._copies_inputs)

    def _scaled_outputs(self, layer: str, names: tuple[str, ...]) -> float:
        """Bytes a token that DoRA keeps of what layers gave."""
        return 0.0 if self._adapter is None else self._adapter.scaled_outputs(layer, names)

    def _norm(self) -> float:
        """Bytes a token: the input, its scale, and the scaled input where the norm's weight is tuned."""
        if self.lora is None:
            return 8 * self.shape.d_model + 4
        return (6 if self.is_bf16 else 4) * self.shape.d_model + 4

    def _attention_output(self, layer: str) -> float:
        """Bytes a token: the fused kernel keeps its output, eager attention only for a tuned output projection."""
        kept = self._linear_inputs(layer, ("o",), self.inner)
        if self.has_fused_attention and (self.lora is not None or kept == 0.0):
            return kept + self.inner * self.compute_bytes
        return kept

    def _scores(self, query_tokens: float, query_length: float, key_length: float, num_biases: float) -> float:
        """Bytes of the matrices of (query, key) pairs: the fused kernel keeps its bias, eager attention its weights."""
        heads = self.shape.num_heads
        if self.has_fused_attention:
            aligned = math.ceil(key_length / _MASK_ALIGNMENT) * _MASK_ALIGNMENT
            bias = num_biases * query_length * aligned * heads * self.compute_bytes
            return bias + query_tokens * heads * 4
        # The product with the values keeps what it reads if dropout or a cast made it another tensor.
        softmax = 4 if self.is_cuda else self.stream_bytes
        is_other_tensor = self.has_dropout or softmax != self.compute_bytes
        product_input = self.compute_bytes if is_other_tensor else 0
        return query_tokens * key_length * heads * (softmax + product_input + self._dropout_mask(1, softmax))

    def _dropout_mask(self, width: int, value_bytes: int) -> float:
        if not self.has_dropout:
            return 0.0
        return width * (1 if self.is_cuda else value_bytes)
