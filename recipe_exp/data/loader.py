"""From the plan to tensors: whole windows, prepared ahead of the device in a thread of their own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from recipe_exp.data.plan import IndexArray, Lengths, WindowPlan, cut_by_tokens, plan_micro_batches, split_mix
from recipe_exp.data.tokens.token_files import TokenSplit

IGNORED_LABEL = -100

# Evaluation sorts this many examples at a time by length: enough for little padding, however large the split.
_EVALUATION_CHUNK = 4096
_POLL_SECONDS = 0.1
# 2^64 over the golden ratio, SplitMix64's own stride.
_STRIDE = np.uint64(0x9E3779B97F4A7C15)


def moved(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Returns a tensor on a device. What goes to a GPU does so from pinned memory, so that the host does not wait."""
    if tensor.device.type == "cpu" and torch.device(device).type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


@dataclass(frozen=True)
class MicroBatch:
    """What one forward and backward pass sees on one device: texts one after the other, without padding.

    Attributes:
        source_ids: int64, (source tokens,), the prompts.
        target_ids: int64, (target tokens,), the labels.
        source_lengths: int64, (batch,), on the host, so that no device is waited for.
        target_lengths: int64, (batch,), on the host.
        source_keys: int32, (source tokens,), of dropout; see `dropout_keys`.
        target_keys: int32, (target tokens,), of dropout.
        indices: int64, (batch,), the examples in their split.
        num_target_tokens: of all targets; 0 for a stand-in.
        is_dummy: whether this only stands in where a process has nothing to do: one real example, whose loss is to be
            multiplied by zero.
    """

    source_ids: torch.Tensor
    target_ids: torch.Tensor
    source_lengths: IndexArray
    target_lengths: IndexArray
    source_keys: torch.Tensor
    target_keys: torch.Tensor
    indices: IndexArray
    num_target_tokens: int
    is_dummy: bool = False

    @property
    def num_tokens(self) -> int:
        """Tokens of sources and targets."""
        return len(self.source_ids) + len(self.target_ids)

    def to(self, device: torch.device | str) -> MicroBatch:
        """Returns the micro-batch with its tensors on a device."""
        names = ("source_ids", "target_ids", "source_keys", "target_keys")
        tensors: dict[str, Any] = {name: moved(getattr(self, name), device) for name in names}
        return replace(self, **tensors)

    def padded(self, pad_id: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns input ids, attention mask and labels as rows of equal length, each int64.

        Args:
            pad_id: what fills up the input ids, (batch, longest source); labels, (batch, longest target), get -100.
        """
        input_ids, attention_mask = _rows(self.source_ids, self.source_lengths, pad_id)
        labels, _ = _rows(self.target_ids, self.target_lengths, IGNORED_LABEL)
        return input_ids, attention_mask.long(), labels


@dataclass(frozen=True)
class Window:
    """All that one process needs for one step.

    Attributes:
        step: counted from 0.
        epoch: counted from 0.
        num_examples: examples of the window, over all processes.
        num_source_tokens: source tokens of the window without padding, over all processes.
        num_target_tokens: target tokens of the window, over all processes: what the summed loss is divided by.
        num_computed_tokens: tokens that all processes compute, padding and stand-ins included.
        micro_batches: those of this process, the largest first; every process has equally many.
    """

    step: int
    epoch: int
    num_examples: int
    num_source_tokens: int
    num_target_tokens: int
    num_computed_tokens: int
    micro_batches: tuple[MicroBatch, ...]


@dataclass(frozen=True)
class _Failure:
    error: BaseException


_Item: TypeAlias = Window | _Failure | None


class WindowLoader:
    """Iterates over the windows of steps `start_step` to `end_step - 1`, as one process sees them.

    A thread prepares up to `prefetch` windows in advance; an error in it is raised where the window is asked for. The
    thread ends with the last window, with `close()`, or with the loader itself.

    Args:
        split: the tokens to learn from.
        plan: which examples make a window.
        micro_batch_tokens: the budget of one micro-batch; None makes each window one.
        process_index: this process, counted from 0.
        num_processes: processes that share each window.
        start_step: the first step.
        end_step: one more than the last step.
        prefetch: windows that are kept ready.
        is_padded: whether the network computes padding, which then counts towards the budget.
    """

    def __init__(
        self,
        split: TokenSplit,
        plan: WindowPlan,
        micro_batch_tokens: int | None,
        process_index: int,
        num_processes: int,
        start_step: int,
        end_step: int,
        prefetch: int = 2,
        *,
        is_padded: bool = False,
    ) -> None:
        if prefetch < 1:
            raise ValueError(f"prefetch={prefetch}: must be at least 1")

        def prepare(step: int) -> Window:
            return make_window(split, plan, step, micro_batch_tokens, process_index, num_processes, is_padded=is_padded)

        self._ready: queue.Queue[_Item] = queue.Queue(maxsize=prefetch)
        self._stop = threading.Event()
        self._finished = False
        self._thread = threading.Thread(
            target=_produce,
            args=(prepare, range(start_step, end_step), self._ready, self._stop),
            name="window-loader",
            daemon=True,
        )
        self._thread.start()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Window:
        if self._finished:
            raise StopIteration
        item = self._ready.get()
        if isinstance(item, Window):
            return item
        self.close()
        if isinstance(item, _Failure):
            raise item.error
        raise StopIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # The thread holds no reference to the loader, so a loader that is dropped half-way can still stop it.
        if hasattr(self, "_stop"):
            self._stop.set()

    def close(self) -> None:
        """Stops the thread and waits for it; windows that are ready are dropped. May be called twice."""
        self._finished = True
        self._stop.set()
        self._thread.join()


def _produce(prepare: Callable[[int], Window], steps: range, ready: queue.Queue[_Item], stop: threading.Event) -> None:
    try:
        for step in steps:
            if not _put(prepare(step), ready, stop):
                return
        _put(None, ready, stop)
    except BaseException as error:
        _put(_Failure(error), ready, stop)


def _put(item: _Item, ready: queue.Queue[_Item], stop: threading.Event) -> bool:
    """Returns False if the loader was closed before there was room."""
    while not stop.is_set():
        try:
            ready.put(item, timeout=_POLL_SECONDS)
        except queue.Full:
            continue
        return True
    return False


def make_window(
    split: TokenSplit,
    plan: WindowPlan,
    step: int,
    micro_batch_tokens: int | None,
    process_index: int,
    num_processes: int,
    *,
    is_padded: bool = False,
) -> Window:
    """Returns the window of one step as one process sees it; a pure function of its arguments."""
    indices, prompts = plan.window(step), plan.prompts(step)
    sources = split.all_source_lengths[indices, prompts].astype(np.int64)
    targets = split.target_lengths[indices].astype(np.int64)
    hands = plan_micro_batches(sources, targets, micro_batch_tokens, num_processes, is_padded=is_padded)
    lengths = Lengths(sources, targets, is_padded=is_padded)
    stand_in = np.array([np.argmin(sources + targets)])

    def made(part: IndexArray) -> MicroBatch:
        chosen = part if len(part) else stand_in
        whole = make_micro_batch(split, indices[chosen], prompts[chosen], noise=(plan.seed, step))
        return whole if len(part) else replace(whole, num_target_tokens=0, is_dummy=True)

    return Window(
        step=step,
        epoch=plan.epoch_of(step),
        num_examples=len(indices),
        num_source_tokens=int(sources.sum()),
        num_target_tokens=int(targets.sum()),
        num_computed_tokens=sum(lengths.size_of(part if len(part) else stand_in) for hand in hands for part in hand),
        micro_batches=tuple(made(part) for part in hands[process_index]),
    )


def make_micro_batch(
    split: TokenSplit,
    indices: npt.ArrayLike,
    prompts: npt.ArrayLike | None = None,
    noise: tuple[int, int] | None = None,
) -> MicroBatch:
    """Returns examples of a split one after the other, in the order of the indices.

    Args:
        split: where they are.
        indices: which ones, (batch,).
        prompts: of each, (batch,); None takes the first one for all.
        noise: seed and step, from which the keys of dropout follow; without them all are zero.
    """
    positions = np.asarray(indices, dtype=np.int64)
    chosen = np.zeros_like(positions) if prompts is None else np.asarray(prompts)
    sources = [split.source(*row) for row in zip(positions.tolist(), chosen.tolist(), strict=True)]
    return join_texts(sources, [split.target(index) for index in positions.tolist()], positions, noise)


def join_texts(
    sources: Sequence[npt.ArrayLike],
    targets: Sequence[npt.ArrayLike],
    indices: IndexArray | None = None,
    noise: tuple[int, int] | None = None,
) -> MicroBatch:
    """Returns texts one after the other.

    Args:
        sources: token ids of each prompt.
        targets: token ids of each recipe.
        indices: int64, (batch,), the examples in their split; None counts them from 0.
        noise: seed and step, from which the keys of dropout follow; without them all are zero.
    """
    positions = np.arange(len(sources)) if indices is None else indices
    source_lengths, target_lengths = _lengths(sources), _lengths(targets)
    return MicroBatch(
        source_ids=_joined(sources),
        target_ids=_joined(targets),
        source_lengths=source_lengths,
        target_lengths=target_lengths,
        source_keys=dropout_keys(noise, positions, source_lengths),
        target_keys=dropout_keys(noise, positions, target_lengths),
        indices=positions,
        num_target_tokens=int(target_lengths.sum()),
    )


def dropout_keys(noise: tuple[int, int] | None, indices: IndexArray, lengths: IndexArray) -> torch.Tensor:
    """Returns a random number for each token, drawn from (seed, step, example, position) alone.

    So a token has the same dropout however its window is cut and whichever process computes it. The numbers are the
    upper halves of SplitMix64's outputs (Steele et al., 2014, https://doi.org/10.1145/2660193.2660195).

    Args:
        noise: seed and step; None makes all numbers zero.
        indices: int64, (batch,), the examples in their split.
        lengths: int64, (batch,), tokens of each.

    Returns:
        int32, (tokens,).
    """
    if noise is None:
        return torch.zeros(int(lengths.sum()), dtype=torch.int32)
    start = np.random.SeedSequence([number % 2**64 for number in noise]).generate_state(1, np.uint64)
    of_examples = split_mix(start + indices.astype(np.uint64) * _STRIDE)
    places = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    bits = split_mix(np.repeat(of_examples, lengths) + places.astype(np.uint64) * _STRIDE)
    return torch.from_numpy((bits >> np.uint64(32)).astype(np.uint32).view(np.int32))


def evaluation_batches(
    split: TokenSplit, indices: npt.ArrayLike, batch_tokens: int, *, is_padded: bool = False
) -> Iterator[MicroBatch]:
    """Yields the examples in micro-batches of similar lengths; `indices` of each tells which examples it holds.

    Every example comes once. The order depends on the lengths, so put results back by `MicroBatch.indices`.
    """
    wanted = np.asarray(indices, dtype=np.int64)
    for start in range(0, len(wanted), _EVALUATION_CHUNK):
        chunk = wanted[start : start + _EVALUATION_CHUNK]
        sources = split.source_lengths[chunk].astype(np.int64)
        targets = split.target_lengths[chunk].astype(np.int64)
        for part in reversed(cut_by_tokens(sources, targets, batch_tokens, is_padded=is_padded)):
            yield make_micro_batch(split, chunk[part])


def _lengths(rows: Sequence[npt.ArrayLike]) -> IndexArray:
    return np.fromiter(map(np.size, rows), np.int64, len(rows))


def _joined(rows: Sequence[npt.ArrayLike]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(rows).astype(np.int64))


def _rows(ids: torch.Tensor, lengths: IndexArray, padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns texts as rows, and which places hold a token; from the lengths, as a text may hold the padding's id."""
    columns = np.arange(int(lengths.max()))
    is_token = torch.from_numpy(columns < lengths[:, None]).to(ids.device)
    rows = torch.full(is_token.shape, padding, dtype=ids.dtype, device=ids.device)
    return rows.masked_scatter(is_token, ids), is_token
