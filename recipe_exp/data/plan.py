"""The batch plan: which examples make a step, and how a device can take them; pure functions without torch."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from recipe_exp.errors import DataError

IndexArray = npt.NDArray[np.int64]
DifficultyArray = npt.NDArray[np.integer[Any] | np.floating[Any]]

# In the order of a curriculum's epoch a rank of difficulty counts as much as so many places of a uniform permutation.
_DIFFICULTY_WEIGHT = 2


@dataclass(frozen=True)
class WindowPlan:
    """Which examples each step learns from, and which prompt each of them has there.

    Every epoch takes each example once, in a uniform permutation that depends on the fields below and the epoch
    only. The last window of an epoch may be smaller than the others.

    With `difficulty` the first epoch is a curriculum (Bengio et al., 2009, https://doi.org/10.1145/1553374.1553380): it
    takes the examples in the order of `2 * rank + place`, where `rank` is an example's rank of difficulty and `place`
    its place in that epoch's uniform permutation, both counted from 0; `place` decides between equals. So for n
    examples, one is drawn from ranks that spread over about n/2, the easier ones first.

    A prompt is drawn for each example and epoch by itself, with the weights as probabilities, whatever the batch size.

    Attributes:
        num_examples: examples of the training split.
        batch_size: examples of one window, over all processes.
        seed: the run's seed.
        fingerprint: the data fingerprint.
        prompt_weights: the probability of each prompt; they sum to 1.
        difficulty: (num_examples,) of each example, higher is harder; None orders the first epoch like the others.
    """

    num_examples: int
    batch_size: int
    seed: int
    fingerprint: str
    prompt_weights: tuple[float, ...] = (1.0,)
    difficulty: DifficultyArray | None = field(default=None, repr=False, compare=False)
    _last_order: list[tuple[int, IndexArray]] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.num_examples < 1:
            raise DataError("data: the training split holds no example; lower the held-out fractions or add recipes")
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size}: must be at least 1")
        if self.difficulty is not None and len(self.difficulty) != self.num_examples:
            raise ValueError(f"{len(self.difficulty)} difficulties for {self.num_examples} examples")

    @property
    def windows_per_epoch(self) -> int:
        """Steps that take every example once."""
        return -(-self.num_examples // self.batch_size)

    def epoch_of(self, step: int) -> int:
        """Returns the epoch of a step; both are counted from 0."""
        return step // self.windows_per_epoch

    def window(self, step: int) -> IndexArray:
        """Returns the indices of the examples of one step, counted from 0.

        Steps may be asked for in any order; only the first step of an epoch costs more than a slice.
        """
        if step < 0:
            raise ValueError(f"step={step}: steps are counted from 0")
        start = step % self.windows_per_epoch * self.batch_size
        return self._order(self.epoch_of(step))[start : start + self.batch_size].copy()

    def prompts(self, step: int) -> IndexArray:
        """Returns the prompt of each example of one step, in the order of `window`; prompts are counted from 0."""
        indices = self.window(step)
        if len(self.prompt_weights) == 1:
            return np.zeros_like(indices)
        key = f"{self.fingerprint}|{self.seed}|{self.epoch_of(step)}|prompts"
        # Without the last sum, which rounding may leave below 1.
        return np.searchsorted(np.cumsum(self.prompt_weights)[:-1], _uniform(key, indices), side="right")

    def _order(self, epoch: int) -> IndexArray:
        for known, order in self._last_order:
            if known == epoch:
                return order
        order = _permutation(self.num_examples, f"{self.fingerprint}|{self.seed}|{epoch}|{self.batch_size}")
        if epoch == 0 and self.difficulty is not None:
            order = _easy_first(order, self.difficulty)
        self._last_order[:] = [(epoch, order)]
        return order


def plan_micro_batches(
    source_lengths: npt.ArrayLike,
    target_lengths: npt.ArrayLike,
    micro_batch_tokens: int | None,
    num_processes: int,
    *,
    is_padded: bool = False,
) -> list[list[IndexArray]]:
    """Divides a window into micro-batches of similar lengths and nearly equal sizes and deals them to the processes.

    No size exceeds `micro_batch_tokens` but that of a single example which is longer. There are as few as the budget
    allows. All processes get equally many micro-batches, because collective calls must match; those with the same
    number in their lists are of similar size.

    Args:
        source_lengths: (num_examples,) tokens of each source in the window.
        target_lengths: (num_examples,) tokens of each target.
        micro_batch_tokens: the budget of one micro-batch; None, for one process, makes the whole window one.
        num_processes: how many processes share the window.
        is_padded: whether the network computes padding, see `Lengths.size_of`.

    Returns:
        For each process its micro-batches, each an array of positions in the window. An empty array stands where a
        process has nothing to do while another has.
    """
    lengths = Lengths(
        np.asarray(source_lengths, dtype=np.int64), np.asarray(target_lengths, dtype=np.int64), is_padded=is_padded
    )
    if micro_batch_tokens is None:
        if num_processes > 1:
            raise ValueError(f"num_processes={num_processes}: a window that is one micro-batch cannot be shared")
        return [[lengths.order]]
    num_parts = len(_greedy_cuts(lengths, micro_batch_tokens)) - 1
    num_rounds = -(-num_parts // num_processes)
    parts = _cut_evenly(lengths, micro_batch_tokens, num_rounds * num_processes)
    return _deal(parts, lengths, num_processes)


def cut_by_tokens(
    sources: IndexArray, targets: IndexArray, max_tokens: int, *, is_padded: bool = False
) -> list[IndexArray]:
    """Divides examples into micro-batches of similar lengths: a plan for one process, shortest first.

    Returns:
        Arrays of positions; together they hold each position once. Sizes are bounded as in `plan_micro_batches`.
    """
    lengths = Lengths(sources, targets, is_padded=is_padded)
    return _parts(lengths, _greedy_cuts(lengths, max_tokens))


@dataclass(frozen=True)
class Lengths:
    """The examples of a window, and what a micro-batch of some of them weighs.

    Attributes:
        sources: int64, (num_examples,), tokens of each source.
        targets: int64, (num_examples,), tokens of each target.
        is_padded: whether the network computes padding.
    """

    sources: IndexArray
    targets: IndexArray
    is_padded: bool = False

    @property
    def order(self) -> IndexArray:
        """Positions by length. Targets are the longer side and vary the most, so they decide who stands together."""
        return np.lexsort((self.sources, self.targets))

    def size_of(self, positions: IndexArray) -> int:
        """Returns the tokens that a network computes for a micro-batch.

        The tokens of its sources and targets; with padding `n * (longest source + longest target)`. 0 if it is empty.
        """
        if not len(positions):
            return 0
        sources, targets = self.sources[positions], self.targets[positions]
        if self.is_padded:
            return len(positions) * int(sources.max() + targets.max())
        return int(sources.sum() + targets.sum())


def _permutation(size: int, key: str) -> IndexArray:
    # NumPy keeps the bits of PCG64 the same for ever, but not what its Generator makes of them; so the raw bits are
    # sorted. Two of 64 bits are equal too rarely to matter, and a stable sort makes even that reproducible.
    bits = np.random.PCG64(int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "big")).random_raw(size)
    return np.argsort(bits, kind="stable")


def _easy_first(order: IndexArray, difficulty: DifficultyArray) -> IndexArray:
    """Returns a permutation moved towards growing difficulty, as `WindowPlan` defines it."""
    places = np.arange(len(order))
    ranks = np.empty_like(places)
    ranks[np.argsort(np.asarray(difficulty)[order], kind="stable")] = places
    return order[np.argsort(_DIFFICULTY_WEIGHT * ranks + places, kind="stable")]


def _uniform(key: str, indices: IndexArray) -> npt.NDArray[np.float64]:
    """Returns a number in [0, 1) for each index, as if drawn anew for every key and index.

    They are the outputs of the generator SplitMix64 (Steele et al., 2014, https://doi.org/10.1145/2660193.2660195) at
    these places, seeded with a hash of the key; any of them costs the same.
    """
    seed = np.uint64(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big"))
    bits = split_mix(seed + (indices.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))
    # The upper 53 bits are all that a float64 below 1 holds.
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def split_mix(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Returns the output of the generator SplitMix64 for each state, a bijection (Steele et al., 2014)."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def _cut_evenly(lengths: Lengths, max_tokens: int, max_parts: int) -> list[IndexArray]:
    """Returns at most so many parts, the largest of them as small as can be, by bisection over its size.

    `max_tokens` must leave room for as many parts.
    """
    low, high = 1, max_tokens
    while low < high:
        middle = (low + high) // 2
        if len(_greedy_cuts(lengths, middle)) - 1 <= max_parts:
            high = middle
        else:
            low = middle + 1
    return _parts(lengths, _greedy_cuts(lengths, high))


def _parts(lengths: Lengths, cuts: list[int]) -> list[IndexArray]:
    order = lengths.order
    return [order[start:end] for start, end in itertools.pairwise(cuts)]


def _greedy_cuts(lengths: Lengths, max_tokens: int) -> list[int]:
    """Returns where to cut the examples by length into as few parts as the budget allows: each takes what fits."""
    order = lengths.order
    rows = zip(lengths.sources[order].tolist(), lengths.targets[order].tolist(), strict=True)
    cuts = [0]
    source_size = target_size = 0
    for position, (source, target) in enumerate(rows):
        if lengths.is_padded:
            source_size, target_size = max(source_size, source), max(target_size, target)
            size = (position + 1 - cuts[-1]) * (source_size + target_size)
        else:
            source_size, target_size = source_size + source, target_size + target
            size = source_size + target_size
        if position > cuts[-1] and size > max_tokens:
            cuts.append(position)
            source_size, target_size = source, target
    return [*cuts, len(order)] if len(order) else cuts


def _fill_last_round(parts: list[IndexArray], lengths: Lengths, num_processes: int) -> list[IndexArray]:
    """Splits the smallest parts, those of the last round, until every process has one or none can be split."""
    num_full = len(parts) // num_processes * num_processes
    full, last = parts[:num_full], parts[num_full:]
    while last and len(last) < num_processes:
        largest = max(range(len(last)), key=lambda i: (len(last[i]) > 1, lengths.size_of(last[i])))
        if len(last[largest]) == 1:
            break
        last[largest : largest + 1] = _halves(last[largest], lengths)
    return full + _largest_first(last, lengths)


def _halves(part: IndexArray, lengths: Lengths) -> list[IndexArray]:
    def larger_half(cut: int) -> int:
        return max(lengths.size_of(part[:cut]), lengths.size_of(part[cut:]))

    cut = min(range(1, len(part)), key=larger_half)
    return [part[:cut], part[cut:]]


def _largest_first(parts: list[IndexArray], lengths: Lengths) -> list[IndexArray]:
    return sorted(parts, key=lambda part: -lengths.size_of(part))


def _deal(parts: list[IndexArray], lengths: Lengths, num_processes: int) -> list[list[IndexArray]]:
    """Gives every process one part a round, the largest to the one that has had the least so far."""
    parts = _fill_last_round(_largest_first(parts, lengths), lengths, num_processes)
    hands: list[list[IndexArray]] = [[] for _ in range(num_processes)]
    loads = [0] * num_processes
    nothing = np.empty(0, dtype=np.int64)
    for start in range(0, len(parts), num_processes):
        receivers = sorted(range(num_processes), key=loads.__getitem__)
        for process, part in itertools.zip_longest(receivers, parts[start : start + num_processes], fillvalue=nothing):
            hands[process].append(part)
            loads[process] += lengths.size_of(part)
    return hands
