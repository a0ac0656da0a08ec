"""From the plan to tensors: whole windows, prepared ahead of the device in a thread of their own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from recipe_exp.data.plan import IndexArray, WindowPlan, cut_by_tokens, padded_size, plan_micro_batches
from recipe_exp.data.tokens.token_files import TokenArray, TokenSplit

IGNORED_LABEL = -100

# Evaluation sorts this many examples at a time by length: enough for little padding, however large the split.
_EVALUATION_CHUNK = 4096
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class MicroBatch:
    """What one forward and backward pass sees on one device.

    Attributes:
        input_ids: int64, (batch, source_length), filled up with the pad id.
        attention_mask: int64, (batch, source_length), 1 for tokens and 0 for padding.
        labels: int64, (batch, target_length), filled up with -100.
        indices: int64, (batch,), the examples in their split.
        num_target_tokens: labels other than -100; 0 for a stand-in.
        is_dummy: whether this only stands in where a process has nothing to do: one real example, whose loss is to be
            multiplied by zero.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    indices: IndexArray
    num_target_tokens: int
    is_dummy: bool = False

    @property
    def padded_tokens(self) -> int:
        """Positions of sources and targets, padding included."""
        return self.input_ids.numel() + self.labels.numel()

    def to(self, device: torch.device | str) -> MicroBatch:
        """Returns the micro-batch with its tensors on a device."""
        return replace(
            self,
            input_ids=self.input_ids.to(device, non_blocking=True),
            attention_mask=self.attention_mask.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
        )


@dataclass(frozen=True)
class Window:
    """All that one process needs for one step.

    Attributes:
        step: counted from 0.
        epoch: counted from 0.
        num_examples: examples of the window, over all processes.
        num_source_tokens: source tokens of the window without padding, over all processes.
        num_target_tokens: target tokens of the window, over all processes: what the summed loss is divided by.
        padded_tokens: positions that all processes compute, padding and stand-ins included.
        micro_batches: those of this process, the largest first; every process has equally many.
    """

    step: int
    epoch: int
    num_examples: int
    num_source_tokens: int
    num_target_tokens: int
    padded_tokens: int
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
    ) -> None:
        if prefetch < 1:
            raise ValueError(f"prefetch={prefetch}: must be at least 1")

        def prepare(step: int) -> Window:
            return make_window(split, plan, step, micro_batch_tokens, process_index, num_processes)

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
) -> Window:
    """Returns the window of one step as one process sees it; a pure function of its arguments."""
    indices, prompts = plan.window(step), plan.prompts(step)
    sources = split.all_source_lengths[indices, prompts].astype(np.int64)
    targets = split.target_lengths[indices].astype(np.int64)
    hands = plan_micro_batches(sources, targets, micro_batch_tokens, num_processes)
    stand_in = np.array([np.argmin(sources + targets)])
    sizes = [padded_size(part if len(part) else stand_in, sources, targets) for hand in hands for part in hand]
    return Window(
        step=step,
        epoch=plan.epoch_of(step),
        num_examples=len(indices),
        num_source_tokens=int(sources.sum()),
        num_target_tokens=int(targets.sum()),
        padded_tokens=sum(sizes),
        micro_batches=tuple(
            make_micro_batch(split, indices[part], prompts[part])
            if len(part)
            else replace(
                make_micro_batch(split, indices[stand_in], prompts[stand_in]), num_target_tokens=0, is_dummy=True
            )
            for part in hands[process_index]
        ),
    )


def make_micro_batch(split: TokenSplit, indices: npt.ArrayLike, prompts: npt.ArrayLike | None = None) -> MicroBatch:
    """Returns examples of a split as padded tensors, in the order of the indices.

    Args:
        split: where they are.
        indices: which ones, (batch,).
        prompts: of each, (batch,); None takes the first one for all.
    """
    positions = np.asarray(indices, dtype=np.int64)
    chosen = np.zeros_like(positions) if prompts is None else np.asarray(prompts)
    rows = zip(positions.tolist(), chosen.tolist(), strict=True)
    sources = [split.source(index, prompt) for index, prompt in rows]
    input_ids = _padded(sources, split.pad_id)
    labels = _padded([split.target(int(index)) for index in positions], IGNORED_LABEL)
    source_lengths = torch.from_numpy(np.fromiter(map(len, sources), np.int64, len(sources)))
    return MicroBatch(
        input_ids=input_ids,
        # From the lengths, because a text may hold the pad id as a token of its own.
        attention_mask=(torch.arange(input_ids.shape[1]) < source_lengths[:, None]).long(),
        labels=labels,
        indices=positions,
        num_target_tokens=int(split.target_lengths[positions].sum(dtype=np.int64)),
    )


def evaluation_batches(split: TokenSplit, indices: npt.ArrayLike, batch_tokens: int) -> Iterator[MicroBatch]:
    """Yields the examples in micro-batches of similar lengths; `indices` of each tells which examples it holds.

    Every example comes once. The order depends on the lengths, so put results back by `MicroBatch.indices`.
    """
    wanted = np.asarray(indices, dtype=np.int64)
    for start in range(0, len(wanted), _EVALUATION_CHUNK):
        chunk = wanted[start : start + _EVALUATION_CHUNK]
        sources = split.source_lengths[chunk].astype(np.int64)
        targets = split.target_lengths[chunk].astype(np.int64)
        for part in reversed(cut_by_tokens(sources, targets, batch_tokens)):
            yield make_micro_batch(split, chunk[part])


def _padded(rows: list[TokenArray], padding: int) -> torch.Tensor:
    ids = np.full((len(rows), max(map(len, rows))), padding, dtype=np.int64)
    for row, tokens in zip(ids, rows, strict=True):
        row[: len(tokens)] = tokens
    return torch.from_numpy(ids)
