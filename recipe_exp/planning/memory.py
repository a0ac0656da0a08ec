"""How much memory a training step needs, part by part: a closed formula of its fullest moments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from recipe_exp.config.training import LoraConfig
from recipe_exp.planning.activations import Batch, SavedActivations
from recipe_exp.planning.held import held, update_bytes
from recipe_exp.planning.logits import Logits
from recipe_exp.planning.padded_activations import PaddedActivations
from recipe_exp.planning.parameters import count_linear_parameters, count_lora_parameters
from recipe_exp.planning.remedies import Setup

GIB = 1024**3
# CUDA's context and kernels with cuBLAS's workspace; on a CPU the libraries of the process itself.
OVERHEAD_BYTES = {"cuda": 640 * 1024**2, "cpu": 512 * 1024**2}
# Assumed, not measured: what PyTorch's allocator holds on a GPU beyond what is alive, because blocks of other sizes are
# free, as a share of what comes and goes. A CPU's allocator hands memory back.
FRAGMENTATION_SHARE = {"cuda": 0.05, "cpu": 0.0}


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory of one device at the fullest moment of a training step.

    Attributes:
        parts: bytes by part: `weights`, `weight_casts`, `gradients`, `optimizer`, `activations`, `logits`,
            `fragmentation`, `overhead`.
        moment: which moment is the fullest.
    """

    parts: dict[str, int]
    moment: str

    @property
    def peak_bytes(self) -> int:
        """The sum of all parts."""
        return sum(self.parts.values())

    @property
    def tensor_bytes(self) -> int:
        """What tensors take of it, which is what PyTorch can count."""
        return self.peak_bytes - self.parts["overhead"] - self.parts.get("fragmentation", 0)


@dataclass(frozen=True)
class _Moment:
    """What is held at one moment of a step beyond weights, optimizer state and overhead."""

    name: str
    gradients: float
    weight_casts: float = 0.0
    activations: float = 0.0
    logits: float = 0.0

    @property
    def total(self) -> float:
        return self.gradients + self.weight_casts + self.activations + self.logits


def estimate_memory(
    setup: Setup,
    *,
    attention: str,
    micro_batch_tokens: int,
    source_tokens: int,
    target_tokens: int,
    device: str,
) -> MemoryEstimate:
    """Returns the memory of the fullest moment of a step whose micro-batch holds examples of one length.

    Where the window needs more than one micro-batch, gradients count in full from the start, as they do in all but the
    first.

    Args:
        setup: what decides it.
        attention: resolved, a kernel of `model.attention`.
        micro_batch_tokens: tokens of one forward and backward pass; one example at least is taken, and no more
            than the window has.
        source_tokens: of each example.
        target_tokens: of each example.
        device: `cpu` or `cuda`.
    """
    num_examples = max(micro_batch_tokens / max(source_tokens + target_tokens, 1), 1.0)
    batch = Batch(min(num_examples, setup.training.batch_size), source_tokens, target_tokens)
    return estimate_batch(setup, batch, attention=attention, device=device)


def estimate_batch(setup: Setup, batch: Batch, *, attention: str, device: str) -> MemoryEstimate:
    """Returns the memory of the fullest moment of a step with this micro-batch.

    Args:
        setup: what decides it.
        batch: the micro-batch; with fewer examples than the window has, it is one of several.
        attention: resolved, a kernel of `model.attention`.
        device: `cpu` or `cuda`.
    """
    step = _Step(setup, attention=attention, device=device)
    fullest = max(step.moments(batch), key=lambda moment: moment.total)
    parts = {
        "weights": step.held.weights,
        "weight_casts": fullest.weight_casts,
        "gradients": fullest.gradients,
        "optimizer": step.held.optimizer,
        "activations": fullest.activations,
        "logits": fullest.logits,
        "fragmentation": FRAGMENTATION_SHARE[device] * fullest.total,
        "overhead": OVERHEAD_BYTES[device],
    }
    return MemoryEstimate({name: int(size) for name, size in parts.items()}, fullest.name)


def estimate_largest(
    setup: Setup, micro_batch_tokens: int, *, attention: str, device: str, longest_example_tokens: int
) -> MemoryEstimate:
    """Returns the memory of a micro-batch that no real one of this size exceeds.

    Every token counts as a target token, the dearer kind, of an example of the longest length. A step that updates in
    the backward pass takes its whole window at once.
    """
    if setup.training.update_in_backward:
        micro_batch_tokens = setup.training.batch_size * longest_example_tokens
    return estimate_memory(
        setup,
        attention=attention,
        micro_batch_tokens=micro_batch_tokens,
        source_tokens=0,
        target_tokens=longest_example_tokens,
        device=device,
    )


class _Step:
    """The moments of a step at which memory can be fullest."""

    def __init__(self, setup: Setup, *, attention: str, device: str) -> None:
        model, training = setup.model, setup.training
        self.model, self.training = model, training
        self.is_bf16 = setup.precision == "bf16"
        self.held = held(model, training, is_bf16=self.is_bf16)
        lora = training.adapter if isinstance(training.adapter, LoraConfig) else None
        self.lora = lora
        holds_bf16 = self.held.weight_bytes == 2
        self.saved: SavedActivations | PaddedActivations
        if setup.is_padded:
            self.saved = PaddedActivations(
                model, lora, is_bf16=self.is_bf16, holds_bf16=holds_bf16, attention=attention, device=device
            )
        else:
            self.saved = SavedActivations(
                model,
                lora,
                is_bf16=self.is_bf16,
                holds_bf16=holds_bf16,
                attention=attention,
                device=device,
                is_compiled=setup.is_compiled,
            )
        self.logits = Logits(
            model.shape,
            is_bf16=self.is_bf16,
            is_full=self.held.is_full,
            weight_bytes=self.held.weight_bytes,
            is_compiled=setup.is_compiled,
        )
        self.compute_bytes = 2 if self.is_bf16 else 4
        # Encoder and decoder read from the embedding together there.
        self.has_one_lookup = device == "cpu" and not setup.is_padded and self.held.weight_bytes == 4

    def moments(self, batch: Batch) -> Iterator[_Moment]:
        """Yields the moments in the order of a step."""
        tokens = batch.all_target_tokens
        is_one_of_several = batch.num_examples < self.training.batch_size
        # Those of the micro-batches before; within the backward pass none is left over.
        before = self.held.gradients if is_one_of_several and not self.training.update_in_backward else 0
        casts, kept = self._casts(), self._kept(batch)
        head = self.logits.head_gradient(tokens)
        yield _Moment("cross-entropy", before, casts, kept, self.logits.peak(tokens))
        kept_gradient = self.logits.hidden_gradient(tokens)
        if self.model.gradient_checkpointing:
            # Autocast's copies of the weights live until the forward pass ends; a block that is recomputed makes its
            # own.
            casts /= self.model.shape.num_layers + self.model.shape.num_decoder_layers
        yield _Moment("gradient of the output projection", before + head, casts, kept, kept_gradient)
        if self.model.gradient_checkpointing:
            kept += max(self.saved.encoder_layer(batch), self.saved.decoder_layer(batch))
        name = "recomputation of a block" if self.model.gradient_checkpointing else "begin of the backward pass"
        # The projection's gradient is among those of earlier micro-batches, or the first of all.
        yield _Moment(name, before or self._first_gradient(), casts, kept + self._working(batch))
        yield from self._late_moments(batch, before)

    def _first_gradient(self) -> int:
        """The gradient of the output projection, where it is not used up at once."""
        if not self.held.is_full or self.training.update_in_backward:
            return 0
        return self.held.weight_bytes * self.model.shape.vocab_size * self.model.shape.d_model

    def _late_moments(self, batch: Batch, before: float) -> Iterator[_Moment]:
        """Yields the moments at which most of the activations have been let go of."""
        shape, size = self.model.shape, self.held.weight_bytes
        embedding = size * shape.vocab_size * shape.d_model if self.held.is_full else 0
        if self.training.update_in_backward:
            # The gradients of encoder and decoder, and their sum, of which the update is made.
            yield _Moment("gradient of the embedding", 3 * embedding)
            yield _Moment("update of the embedding", embedding + self.held.update)
            return
        share = shape.num_decoder_layers / (shape.num_layers + shape.num_decoder_layers)
        gradients = max(before, share * self.held.gradients)
        encoder = self._kept_by_encoder(batch)
        yield _Moment("begin of the encoder", gradients + embedding, activations=encoder + self._working(batch))
        # The gradient of both, or those of encoder and decoder and their sum; one is the weight's own in the first
        # micro-batch.
        num_made = 1 if self.has_one_lookup else 3
        own = 0 if before else 1
        yield _Moment("gradient of the embedding", self.held.gradients + embedding * (num_made - own))
        yield _Moment("update of the weights", self.held.gradients + self.held.update)

    def _kept(self, batch: Batch) -> float:
        return self.saved.checkpointed(batch) if self.model.gradient_checkpointing else self.saved.whole(batch)

    def _kept_by_encoder(self, batch: Batch) -> float:
        """What is left when the decoder's backward pass is done."""
        source = Batch(batch.num_examples, batch.source_tokens, 0)
        extra = self.saved.encoder_layer(batch) if self.model.gradient_checkpointing else 0.0
        return self._kept(source) + extra

    def _working(self, batch: Batch) -> float:
        """What the backward pass of a block holds at most: gradients of activations, and of one weight."""
        shape = self.model.shape
        flowing = max(self.saved.backward_of_encoder_layer(batch), self.saved.backward_of_decoder_layer(batch))
        largest = shape.d_ff * shape.d_model
        if self.training.update_in_backward:
            return max(flowing, update_bytes(largest, self.training)) + largest * self.held.weight_bytes
        if self.held.is_full:
            return flowing + largest * self.held.weight_bytes
        # A quantised weight is unpacked for its product.
        is_quantized = self.lora is not None and self.lora.quantization != "none"
        return flowing + (largest * self.compute_bytes if is_quantized else 0)

    def _casts(self) -> float:
        """Copies in bf16 that autocast makes of fp32 matrices: of the network's, or of the adapter's."""
        if not self.is_bf16 or self.held.weight_bytes == 2:
            return 0.0
        shape = self.model.shape
        if self.lora is not None:
            return 2.0 * count_lora_parameters(shape, self.lora)
        return 2.0 * (count_linear_parameters(shape) - shape.vocab_size * shape.d_model)
