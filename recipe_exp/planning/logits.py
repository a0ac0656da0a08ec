"""Memory of the cross-entropy over the vocabulary, which is computed a chunk of target tokens after the other."""

from __future__ import annotations

from recipe_exp.config.model import ModelShape

# Bytes of the fp32 logits of a chunk, as `recipe_exp.models.chunked_cross_entropy` has it.
MAX_LOGITS_BYTES = 64 * 2**20


# fp32 tensors and masks of the size of a chunk's logits that stand between the steps of softmax and gradient where
# nothing is compiled.
_EAGER_BYTES = 17


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
        # Logits and their gradient in the type of the computation, or what makes the gradient step by step.
        eager = _EAGER_BYTES + (2 if is_bf16 else 0)
        self._bytes_of_one = 2 * self.compute_bytes if is_compiled else eager
        self._head = shape.vocab_size * shape.d_model
        self._tokens_at_once = max(MAX_LOGITS_BYTES // (4 * shape.vocab_size), 1)

    def peak(self, tokens: float) -> float:
        """Returns the most that the forward pass holds for the loss, the projection's gradient among it.

        Args:
            tokens: target tokens of the micro-batch.
        """
        is_cast = self.is_bf16 and self.is_full and self.weight_bytes == 4
        cast = 2.0 * self._head if is_cast else 0.0
        # What the projection reads, and the gradient of it.
        around = 2 * self.hidden_gradient(tokens)
        return cast + max(self._first_chunk(tokens), self._later_chunk(tokens)) + around

    def hidden_gradient(self, tokens: float) -> float:
        """Returns the gradient of what the projection reads, which waits for the backward pass."""
        return tokens * self.shape.d_model * self.compute_bytes

    def head_gradient(self, tokens: float) -> float:
        """Returns the gradient of the projection's weights when the backward pass begins, a cast included."""
        if not self.is_full:
            return 0.0
        made = self.compute_bytes if not self._has_several(tokens) else 4
        return self._head * (made if made == self.weight_bytes else made + self.weight_bytes)

    def _first_chunk(self, tokens: float) -> float:
        """What makes the gradient of the logits, then both and the gradient of the projection."""
        size = min(tokens, self._tokens_at_once) * self.shape.vocab_size
        made = self._head * self.compute_bytes if self.is_full else 0
        return max(size * self._bytes_of_one, size * 2 * self.compute_bytes + made)

    def _later_chunk(self, tokens: float) -> float:
        """The same beside what the chunk before left: its gradient, and the projection's, summed in fp32."""
        before = self._tokens_at_once * self.shape.vocab_size
        size = min((tokens - self._tokens_at_once) * self.shape.vocab_size, before)
        if size <= 0:
            return 0.0
        total = 4.0 * self._head if self.is_full else 0.0
        # The first share in bf16 is there until the sum with the second is.
        share = 4.0 * self._head if self.is_full and self.is_bf16 else 0.0
        logits = before * self.compute_bytes + size * self._bytes_of_one
        return total + max(logits, size * 2 * self.compute_bytes + share)

    def _has_several(self, tokens: float) -> bool:
        return tokens > self._tokens_at_once
