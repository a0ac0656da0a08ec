"""Memory of the cross-entropy over the vocabulary, which is computed a chunk of target tokens after the other."""

from __future__ import annotations

from recipe_exp.config.model import ModelShape

# Bytes of the fp32 logits of a chunk, and its tokens, as `recipe_exp.models.chunked_cross_entropy` has them.
MAX_LOGITS_BYTES = 128 * 2**20
MAX_TOKENS = 1024

# Two fp32 tensors of the size of a chunk's logits that make their softmax where nothing is compiled, in bf16 only: in
# fp32 it is made in place.
_EAGER_BYTES = 8


class Logits:
    """Bytes around the output projection.

    Args:
        shape: of the network.
        is_bf16: whether matrix products run in bfloat16.
        is_full: whether the projection is tuned.
        weight_bytes: of one of its weights, if so.
        is_compiled: whether softmax and gradient are fused.
    """

    def __init__(
        self, shape: ModelShape, *, is_bf16: bool, is_full: bool, weight_bytes: int, is_compiled: bool = False
    ) -> None:
        self.shape = shape
        self.is_bf16 = is_bf16
        self.is_full = is_full
        self.weight_bytes = weight_bytes
        self.compute_bytes = 2 if is_bf16 else 4
        # Logits that their gradient is written over, and what makes it step by step.
        self._bytes_of_one = self.compute_bytes + (_EAGER_BYTES if is_bf16 and not is_compiled else 0)
        self._head = shape.vocab_size * shape.d_model
        self._tokens_at_once = min(max(MAX_LOGITS_BYTES // (4 * shape.vocab_size), 1), MAX_TOKENS)

    def peak(self, tokens: float) -> float:
        """Returns the most that the forward pass holds for the loss, the projection's gradient among it.

        Args:
            tokens: target tokens of the micro-batch.
        """
        is_cast = self.is_bf16 and self.is_full and self.weight_bytes == 4
        cast = 2.0 * self._head if is_cast else 0.0
        # What the projection reads, and the gradient of it.
        around = 2 * self.hidden_gradient(tokens)
        size = min(tokens, self._tokens_at_once) * self.shape.vocab_size
        # A chunk's share of a sum in another type is there by itself.
        is_sum_of_other_type = self.is_full and self._sum_bytes(tokens) != self.compute_bytes
        share = self._head * self.compute_bytes if is_sum_of_other_type else 0
        total = self._head * self._sum_bytes(tokens) if self.is_full else 0
        return cast + total + max(size * self._bytes_of_one, size * self.compute_bytes + share) + around

    def hidden_gradient(self, tokens: float) -> float:
        """Returns the gradient of what the projection reads, which waits for the backward pass."""
        return tokens * self.shape.d_model * self.compute_bytes

    def head_gradient(self, tokens: float) -> float:
        """Returns the gradient of the projection's weights when the backward pass begins, a cast included."""
        if not self.is_full:
            return 0.0
        made = self._sum_bytes(tokens)
        return self._head * (made if made == self.weight_bytes else made + self.weight_bytes)

    def _sum_bytes(self, tokens: float) -> int:
        """Returns bytes of one entry of the projection's gradient, which is summed in fp32 over several chunks."""
        return 4 if tokens > self._tokens_at_once else self.compute_bytes
