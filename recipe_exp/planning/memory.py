"""How much memory a training step needs, part by part, and the micro-batch that a device has room for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from recipe_exp.config.model import ModelConfig
from recipe_exp.config.training import AdamWConfig, LoraConfig, TrainingConfig
from recipe_exp.errors import HardwareError
from recipe_exp.planning.activations import Batch, SavedActivations
from recipe_exp.planning.parameters import (
    WeightGroup,
    count_linear_parameters,
    count_lora_parameters,
    count_parameters,
    lora_groups,
    weight_groups,
)
from recipe_exp.planning.remedies import Change, Setup, changes

GIB = 1024**3
# The rest is left to fragmentation, to other programs and to what the formula does not know.
USABLE_SHARE = 0.9
# Beyond these, larger products are no faster.
MAX_AUTO_TOKENS = {"cuda": 32768, "cpu": 16384}
_MIN_AUTO_TOKENS = 16
# CUDA's context and kernels with cuBLAS's workspace; on a CPU the libraries of the process itself.
_OVERHEAD_BYTES = {"cuda": 640 * 1024**2, "cpu": 512 * 1024**2}
# Gradients of feed-forward width that the backward pass of one block holds at the same time.
_WORKING_TENSORS = 2


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory of one device at the fullest moment of a training step.

    Attributes:
        parts: bytes by part: `weights`, `weight_casts`, `gradients`, `optimizer`, `activations`, `logits`, `overhead`.
        moment: which moment is the fullest.
    """

    parts: dict[str, int]
    moment: str

    @property
    def peak_bytes(self) -> int:
        """The sum of all parts."""
        return sum(self.parts.values())


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
    model: ModelConfig,
    training: TrainingConfig,
    *,
    precision: str,
    attention: str,
    micro_batch_tokens: int,
    source_tokens: int,
    target_tokens: int,
    device: str,
) -> MemoryEstimate:
    """Returns the memory of the fullest moment of a step whose micro-batch holds examples of one length.

    Gradients count in full from the start, as in every micro-batch of a window but its first; a window that fits one
    micro-batch needs less.

    Args:
        model: the network.
        training: optimizer, adapter and batch size.
        precision: resolved, `fp32`, `tf32` or `bf16`.
        attention: resolved, `eager` or `sdpa`.
        micro_batch_tokens: padded tokens of one forward and backward pass; one example at least is taken, and no more
            than the window has.
        source_tokens: of each example.
        target_tokens: of each example.
        device: `cpu` or `cuda`.
    """
    num_examples = max(micro_batch_tokens / max(source_tokens + target_tokens, 1), 1.0)
    batch = Batch(min(num_examples, training.batch_size), source_tokens, target_tokens)
    step = _Step(model, training, is_bf16=precision == "bf16", attention=attention, device=device)
    fullest = max(step.moments(batch), key=lambda moment: moment.total)
    parts = {
        "weights": step.weights,
        "weight_casts": fullest.weight_casts,
        "gradients": fullest.gradients,
        "optimizer": step.optimizer,
        "activations": fullest.activations,
        "logits": fullest.logits,
        "overhead": _OVERHEAD_BYTES[device],
    }
    return MemoryEstimate({name: int(size) for name, size in parts.items()}, fullest.name)


def estimate_largest(
    setup: Setup, micro_batch_tokens: int, *, attention: str, device: str, longest_example_tokens: int
) -> MemoryEstimate:
    """Returns the memory of a micro-batch that no real one of this size exceeds.

    Every token counts as a target token, the dearer kind, of an example of the longest length.
    """
    return estimate_memory(
        setup.model,
        setup.training,
        precision=setup.precision,
        attention=attention,
        micro_batch_tokens=micro_batch_tokens,
        source_tokens=0,
        target_tokens=longest_example_tokens,
        device=device,
    )


def auto_micro_batch_tokens(
    model: ModelConfig,
    training: TrainingConfig,
    *,
    precision: str,
    attention: str,
    device: str,
    memory_bytes: int,
    longest_example_tokens: int,
) -> int:
    """Returns the largest micro-batch that fits in `USABLE_SHARE` of the memory, at least the longest example.

    Sizes are a power of two or one and a half times one, up to `MAX_AUTO_TOKENS`.

    Args:
        model: the network.
        training: optimizer, adapter and batch size.
        precision: resolved, `fp32`, `tf32` or `bf16`.
        attention: resolved, `eager` or `sdpa`.
        device: `cpu` or `cuda`.
        memory_bytes: of one device.
        longest_example_tokens: source and target tokens of the longest example.

    Raises:
        HardwareError: if not even the longest example fits; the message names the cheapest changes that help.
    """
    setup = Setup(model, training, precision)

    def fits(tokens: int) -> bool:
        estimate = estimate_largest(
            setup, tokens, attention=attention, device=device, longest_example_tokens=longest_example_tokens
        )
        return estimate.peak_bytes <= USABLE_SHARE * memory_bytes

    if not fits(longest_example_tokens):
        raise HardwareError(_does_not_fit(setup, attention, device, memory_bytes, longest_example_tokens))
    sizes = [size for size in _round_sizes(MAX_AUTO_TOKENS[device]) if size > longest_example_tokens]
    fitting = [size for size in sizes if fits(size)]
    return max(fitting, default=max(longest_example_tokens, _MIN_AUTO_TOKENS))


def fitting_changes(
    setup: Setup, *, attention: str, device: str, memory_bytes: int, longest_example_tokens: int
) -> list[tuple[Change, int]]:
    """Returns the changes with which the longest example fits, and their peak bytes.

    The cheapest comes first, and none contains another.
    """
    found: list[tuple[Change, int]] = []
    for change, peak_bytes in _peaks(setup, attention, device, longest_example_tokens):
        is_more_than_needed = any(set(other.overrides) <= set(change.overrides) for other, _ in found)
        if not is_more_than_needed and peak_bytes <= USABLE_SHARE * memory_bytes:
            found.append((change, peak_bytes))
    return found


def leanest_change(
    setup: Setup, *, attention: str, device: str, longest_example_tokens: int
) -> tuple[tuple[str, ...], int]:
    """Returns the overrides that need the least memory of all, none of them if the setup does, and its peak bytes."""
    unchanged = estimate_largest(
        setup,
        longest_example_tokens,
        attention=attention,
        device=device,
        longest_example_tokens=longest_example_tokens,
    )
    peaks = [((), unchanged.peak_bytes)] + [
        (change.overrides, peak_bytes)
        for change, peak_bytes in _peaks(setup, attention, device, longest_example_tokens)
    ]
    return min(peaks, key=lambda item: item[1])


def checkpoint_bytes(model: ModelConfig, training: TrainingConfig) -> int:
    """Returns the size of one checkpoint on disk: the tuned weights in fp32 and the optimizer's state."""
    groups = tuned_groups(model, training)
    return sum(4 * group.num_parameters for group in groups) + _optimizer_bytes(groups, training)


def tuned_groups(model: ModelConfig, training: TrainingConfig) -> list[WeightGroup]:
    """Returns the weights that training changes: the whole network's, or the adapter's."""
    if isinstance(training.adapter, LoraConfig):
        return lora_groups(model.shape, training.adapter)
    return weight_groups(model.shape)


class _Step:
    """The moments of a step at which memory can be fullest."""

    def __init__(
        self, model: ModelConfig, training: TrainingConfig, *, is_bf16: bool, attention: str, device: str
    ) -> None:
        lora = training.adapter if isinstance(training.adapter, LoraConfig) else None
        tuned = tuned_groups(model, training)
        self.model = model
        self.is_bf16 = is_bf16
        self.is_full = lora is None
        self.saved = SavedActivations(model, lora, is_bf16=is_bf16, attention=attention, device=device)
        self.weights = _weight_bytes(model, lora, is_bf16)
        self.optimizer = _optimizer_bytes(tuned, training)
        self.gradients = 4 * sum(group.num_parameters for group in tuned)
        # Adafactor updates one weight at a time, through a tensor of its size.
        largest = max(group.num_parameters // group.count for group in tuned)
        self.update = 0 if isinstance(training.optimizer, AdamWConfig) else 4 * largest

    def moments(self, batch: Batch) -> Iterator[_Moment]:
        """Yields the moments in the order of a step."""
        pairs = batch.all_target_tokens * self.model.shape.vocab_size
        head = self.model.shape.vocab_size * self.model.shape.d_model
        casts, head_cast, head_gradient = self._casts(), 0.0, 0.0
        if self.is_full:
            head_cast = 2.0 * head if self.is_bf16 else 0.0
            head_gradient = (6.0 if self.is_bf16 else 4.0) * head
        kept = self.saved.whole(batch)
        if self.model.gradient_checkpointing:
            kept = self.saved.checkpointed(batch)
            # Autocast's copies of all weights live until the forward pass ends, whatever is recomputed later.
            yield _Moment("end of the forward pass", self.gradients, casts, kept, 8 * pairs)
            yield self._recomputation(batch, kept)
            casts = head_cast
        # Log-probabilities, their gradient and the logits' gradient, all in fp32.
        yield _Moment("gradient of the loss", self.gradients, casts, kept, 12 * pairs)
        logits_gradient = (6 if self.is_bf16 else 4) * pairs
        yield _Moment("gradient of the output projection", self.gradients + head_gradient, casts, kept, logits_gradient)
        # The embedding serves encoder and decoder, so two gradients of its size meet in a sum.
        embedding = 8.0 * head if self.is_full else 0.0
        yield _Moment("gradient of the embedding", self.gradients + embedding)
        yield _Moment("update of the weights", self.gradients + self.update)

    def _recomputation(self, batch: Batch, kept: float) -> _Moment:
        shape = self.model.shape
        encoder, decoder = self.saved.encoder_layer(batch), self.saved.decoder_layer(batch)
        tokens = batch.all_source_tokens if encoder > decoder else batch.all_target_tokens
        working = _WORKING_TENSORS * tokens * shape.d_ff * 4
        num_blocks = shape.num_layers + shape.num_decoder_layers
        casts = self._casts() / num_blocks
        return _Moment("recomputation of a block", self.gradients, casts, kept + max(encoder, decoder) + working)

    def _casts(self) -> float:
        """Copies of the tuned matrices in bf16 that autocast makes."""
        if not self.is_bf16:
            return 0.0
        return 2.0 * count_linear_parameters(self.model.shape) if self.is_full else self.gradients / 2


def _peaks(setup: Setup, attention: str, device: str, longest: int) -> Iterator[tuple[Change, int]]:
    for change in changes(setup, device):
        estimate = estimate_largest(
            change.setup, longest, attention=attention, device=device, longest_example_tokens=longest
        )
        yield change, estimate.peak_bytes


def _weight_bytes(model: ModelConfig, lora: LoraConfig | None, is_bf16: bool) -> int:
    """Tuned weights are in fp32; a frozen base is in bf16 when the computation is."""
    base = count_parameters(model.shape)
    if lora is None:
        return 4 * base
    return (2 if is_bf16 else 4) * base + 4 * count_lora_parameters(model.shape, lora)


def _optimizer_bytes(groups: list[WeightGroup], training: TrainingConfig) -> int:
    """AdamW keeps two fp32 moments of each weight; Adafactor a row and a column of each matrix."""
    if isinstance(training.optimizer, AdamWConfig):
        return sum(8 * group.num_parameters for group in groups)
    # A vector is not factored, and its length is the sum of its only dimension.
    return sum(4 * group.count * sum(group.size) for group in groups)


def _round_sizes(largest: int) -> list[int]:
    powers = [2**exponent for exponent in range(4, largest.bit_length())]
    return sorted(size for power in powers for size in (power, power * 3 // 2) if size <= largest)


def _does_not_fit(setup: Setup, attention: str, device: str, memory_bytes: int, longest: int) -> str:
    needed = estimate_largest(setup, longest, attention=attention, device=device, longest_example_tokens=longest)
    helping = fitting_changes(
        setup, attention=attention, device=device, memory_bytes=memory_bytes, longest_example_tokens=longest
    )
    if helping:
        remedy = "add " + ", or ".join(" ".join(change.overrides) for change, _ in helping[:3])
    else:
        overrides, peak_bytes = leanest_change(
            setup, attention=attention, device=device, longest_example_tokens=longest
        )
        remedy = (
            f"take a smaller model, or a device of {peak_bytes / USABLE_SHARE / GIB:.1f} GiB "
            f"{' '.join(('with', *overrides)) if overrides else 'for these settings'}"
        )
    return (
        f"hardware.memory_gb={memory_bytes / GIB:.3g}: {setup.model.name} needs {needed.peak_bytes / GIB:.1f} GiB for "
        f"one example of {longest} tokens, and {USABLE_SHARE * memory_bytes / GIB:.1f} GiB can be used; {remedy}"
    )
