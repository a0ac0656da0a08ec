"""The most bytes of tensors that are alive at one time in a real training step on the CPU.

What benchmarks and tests hold the plan against. PyTorch's allocator for the CPU keeps no count, so every tensor that an
operation returns is counted by its storage until that is freed; what an operation takes inside itself is not seen.
"""

from __future__ import annotations

import gc
import traceback
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from recipe_exp.config.model import ModelConfig
from recipe_exp.config.training import TrainingConfig
from recipe_exp.data.loader import MicroBatch, Window, join_texts
from recipe_exp.hardware.accelerator import create_accelerator
from recipe_exp.models.finetuned import build_trainable
from recipe_exp.models.sequence_loss import SequenceLoss
from recipe_exp.models.unpadded.compiling import Kernels
from recipe_exp.training.optimizers import build_optimizer
from recipe_exp.training.state import StepResult
from recipe_exp.training.step import TrainingStep, build_step


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors alive inside it, by their storages, and remembers the most.

    Args:
        tensors: alive already.
        keeps_place: whether it remembers where in the program there were the most, which takes time.
    """

    def __init__(self, tensors: Iterable[torch.Tensor], *, keeps_place: bool = False) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.place: list[str] = []
        self._keeps_place = keeps_place
        self._alive: set[int] = set()
        for tensor in tensors:
            self._add(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        before = self.peak
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf)
        if self._keeps_place and self.peak > before:
            frames = traceback.extract_stack()
            self.place = [str(func), *(f"{Path(each.filename).name}:{each.lineno}" for each in frames[-8:-1])]
        return result

    def _add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._alive:
            self._alive.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size


class RealStep:
    """A network with its optimizer, and the arithmetic of one window as a run does it.

    Args:
        model: the network.
        training: how it is tuned.
        precision: resolved, `fp32` or `bf16`.
        attention: resolved, `eager` or `sdpa`.
        device: `cpu` or `cuda`.
        is_compiled: whether elementwise arithmetic is compiled.
        base_folder: where the random base of an adapter is written; it must not exist.
    """

    def __init__(
        self,
        model: ModelConfig,
        training: TrainingConfig,
        *,
        precision: str,
        base_folder: Path,
        attention: str = "eager",
        device: str = "cpu",
        is_compiled: bool = False,
    ) -> None:
        self.shape = model.shape
        self.accelerator: Accelerator = create_accelerator(device=device, precision=precision, num_threads=1)
        network = build_trainable(model, training, precision=precision, attention=attention, base_folder=base_folder)
        self.loss = SequenceLoss(network, Kernels(is_compiled=is_compiled))
        self.step: TrainingStep = build_step(
            self.accelerator.prepare(self.loss),
            build_optimizer(self.loss, training),
            self.accelerator,
            lambda _: training.learning_rate,
            training,
            seed=0,
        )

    def run(self, num_examples: int, source_tokens: int, target_tokens: int, num_micro_batches: int = 1) -> StepResult:
        """Learns from one window of micro-batches of random examples, all of one length."""
        parts = tuple(
            made_up_batch(self.shape.vocab_size, num_examples, source_tokens, target_tokens)
            for _ in range(num_micro_batches)
        )
        count = num_examples * num_micro_batches
        computed = count * (source_tokens + target_tokens)
        return self.step(Window(0, 0, count, count * source_tokens, count * target_tokens, computed, parts))

    def live_tensors(self) -> list[torch.Tensor]:
        """Returns weights and optimizer state."""
        states = self.step.optimizer.state.values()
        state = [value for entries in states for value in entries.values() if torch.is_tensor(value)]
        return [*self.loss.parameters(), *self.loss.buffers(), *state]


def made_up_batch(vocab_size: int, num_examples: int, source_tokens: int, target_tokens: int) -> MicroBatch:
    """Returns random examples of one length."""
    return made_up_texts(vocab_size, [source_tokens] * num_examples, [target_tokens] * num_examples)


def made_up_texts(vocab_size: int, source_lengths: Sequence[int], target_lengths: Sequence[int]) -> MicroBatch:
    """Returns random examples of these lengths."""
    sources, targets = (
        [torch.randint(2, vocab_size, (length,)).numpy() for length in lengths]
        for lengths in (source_lengths, target_lengths)
    )
    return join_texts(sources, targets)


def live_peak(
    step: RealStep, num_examples: int, source_tokens: int, target_tokens: int, num_micro_batches: int = 1
) -> LiveBytes:
    """Returns what was counted in a step after the first one, which makes the optimizer's state."""
    step.run(num_examples, source_tokens, target_tokens, num_micro_batches)
    with counted(step) as live:
        step.run(num_examples, source_tokens, target_tokens, num_micro_batches)
    return live


@contextmanager
def counted(step: RealStep, *, keeps_place: bool = False) -> Iterator[LiveBytes]:
    """Counts what is alive inside, weights and optimizer state among it and gradients of earlier steps not."""
    step.step.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    with LiveBytes(step.live_tensors(), keeps_place=keeps_place) as live:
        yield live
