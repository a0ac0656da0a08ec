"""Memory of the cross-entropy over the vocabulary, which is computed a chunk of target tokens after the other."""

from __future__ import annotations

from recipe_exp.config.model import ModelShape

# Bytes of the fp32 logits of a chunk, as `recipe_exp.models.chunked_cross_entropy` has it.
MAX_LOGITS_BYTES = 64 * 2**20


class Logits:
    """Bytes around the output projection.

    Args:
        shape: of the network.
        is_bf16: whether matrix products run in bfloat16.
        is_full: whether the projection is tuned.
        weight_bytes: of one of its weights, if so.
        stream_bytes: of a value of the decoder's output.
        device: `cpu` or `cuda`; what an operation takes inside itself counts on a GPU, whose allocator sees it.
    """

    def __init__(
        self, shape: ModelShape, *, is_bf16: bool, is_full: bool, weight_bytes: int, stream_bytes: int, device: str
    ) -> None:
        self.shape = shape
        self.is_bf16 = is_bf16
        self.is_full = is_full
        self.weight_bytes = weight_bytes
        self.stream_bytes = stream_bytes
        self.compute_bytes = 2 if is_bf16 else 4
        # The logits in both types; on a GPU their exponentials too, which the sum of the logarithms takes.
        self._copies = (1.5 if is_bf16 else 1.0) + (1.0 if device == "cuda" else 0.0)
        self._head = shape.vocab_size * shape.d_model
        self._tokens_at_once = max(MAX_LOGITS_BYTES // (4 * shape.vocab_size), 1)

    def peak(self, tokens: float) -> float:
        """Returns the most that the forward pass holds for the loss, the projection's gradient among it.

        Args:
            tokens: target tokens of the micro-batch.
        """
        is_cast = self.is_bf16 and self.is_full and self.weight_bytes == 4
        cast = 2.0 * self._head if is_cast else 0.0
        return cast + max(self._first_chunk(tokens), self._later_chunk(tokens)) + self._around(tokens)

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
        """The logits in both types, then their gradient and that of the projection."""
        chunk = 4.0 * min(tokens, self._tokens_at_once) * self.shape.vocab_size
        made = self._head * self.compute_bytes if self.is_full else 0
        return max(chunk * self._copies, chunk * self.compute_bytes / 4 + made)

    def _later_chunk(self, tokens: float) -> float:
        """The same beside what the chunk before left: its gradient, and the projection's, summed in fp32."""
        before = 4.0 * self._tokens_at_once * self.shape.vocab_size
        chunk = min(4.0 * (tokens - self._tokens_at_once) * self.shape.vocab_size, before)
        if chunk <= 0:
            return 0.0
        total = 4.0 * self._head if self.is_full else 0.0
        # The first share in bf16 is there until the sum with the second is.
        share = 4.0 * self._head if self.is_full and self.is_bf16 else 0.0
        logits = before * self.compute_bytes / 4 + chunk * self._copies
        return total + max(logits, chunk * self.compute_bytes / 4 + share)

    def _around(self, tokens: float) -> float:
        """The decoder's output, what is chosen of it and its copy, and the gradient of that."""
        copy = 2 if self.is_bf16 and self.stream_bytes == 4 else 0
        return tokens * self.shape.d_model * (2 * self.stream_bytes + copy + self.compute_bytes)

    def _has_several(self, tokens: float) -> bool:
        return tokens > self._tokens_at_once
