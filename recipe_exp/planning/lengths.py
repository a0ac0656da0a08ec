"""How long the examples are that a run learns from, and the micro-batches that they make."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from recipe_exp.config.data import DataConfig
from recipe_exp.data.plan import plan_micro_batches
from recipe_exp.data.tokens.cache import TokenCache
from recipe_exp.planning.activations import Batch

LengthArray = npt.NDArray[np.int64]

# Median and mean tokens of recipes from the web under T5's vocabulary, prompts of title and ingredients; lengths are
# taken to be log-normal, and a long prompt to belong to a long recipe.
_SOURCE_MEDIAN, _SOURCE_MEAN = 21.0, 25.0
_TARGET_MEDIAN, _TARGET_MEAN = 115.0, 138.0
_NUM_QUANTILES = 512
# A sample of more examples says nothing else.
_MAX_EXAMPLES = 16_384
_NUM_WINDOWS = 9
_MAX_WINDOW = 2048


@dataclass(frozen=True)
class Lengths:
    """Tokens of training examples.

    Attributes:
        sources: (num,) of each prompt; of several prompts of one example their weighted mean.
        targets: (num,) of each recipe.
        longest_tokens: source and target of the longest example under its longest prompt.
        num_examples: of the training split; None where that is not known.
        origin: where they are from, in words.
        is_estimated: whether they are typical of recipes instead of the data's own.
    """

    sources: LengthArray
    targets: LengthArray
    longest_tokens: int
    num_examples: int | None
    origin: str
    is_estimated: bool

    @property
    def mean_source_tokens(self) -> float:
        """Of an example."""
        return float(self.sources.mean())

    @property
    def mean_target_tokens(self) -> float:
        """Of an example."""
        return float(self.targets.mean())


def estimated_lengths(data: DataConfig, num_examples: int | None) -> Lengths:
    """Returns what is typical of recipes, cut as `data` says; the longest example is the longest that it allows."""
    quantiles = [NormalDist().inv_cdf((number + 0.5) / _NUM_QUANTILES) for number in range(_NUM_QUANTILES)]
    return Lengths(
        sources=_log_normal(quantiles, _SOURCE_MEDIAN, _SOURCE_MEAN, data.max_source_tokens),
        targets=_log_normal(quantiles, _TARGET_MEDIAN, _TARGET_MEAN, data.max_target_tokens),
        longest_tokens=data.max_source_tokens + data.max_target_tokens,
        num_examples=num_examples,
        origin="estimated: what is typical of recipes",
        is_estimated=True,
    )


def lengths_of(cache: TokenCache) -> Lengths:
    """Returns the lengths of the training split of a token cache that is there."""
    split = cache.split("train")
    weights = np.asarray(cache.prompts.weights)
    step = max(len(split) // _MAX_EXAMPLES, 1)
    longest = split.all_source_lengths.max(axis=1).astype(np.int64) + split.target_lengths if len(split) else [1]
    return Lengths(
        sources=np.rint(split.all_source_lengths[::step] @ weights).astype(np.int64),
        targets=split.target_lengths[::step].astype(np.int64),
        longest_tokens=int(np.max(longest)),
        num_examples=len(split),
        origin=f"{len(split):,} examples of the token cache",
        is_estimated=False,
    )


def typical_batch(
    lengths: Lengths,
    batch_size: int,
    micro_batch_tokens: int | None,
    num_processes: int,
    *,
    is_padded: bool = False,
) -> Batch:
    """Returns the largest micro-batch of a typical window: the median of some windows drawn from the lengths.

    Args:
        lengths: of the examples.
        batch_size: examples of a window; of a very large one a part is drawn.
        micro_batch_tokens: the budget of one micro-batch; None makes the whole window one.
        num_processes: how many share a window.
        is_padded: whether the network computes padding.
    """
    random = np.random.default_rng(0)
    found: list[Batch] = []
    for _ in range(_NUM_WINDOWS):
        chosen = random.integers(len(lengths.targets), size=min(batch_size, _MAX_WINDOW))
        sources, targets = lengths.sources[chosen], lengths.targets[chosen]
        # Processes beyond the examples of a window have nothing to do.
        num_working = min(num_processes, len(chosen))
        hands = plan_micro_batches(sources, targets, micro_batch_tokens, num_working, is_padded=is_padded)
        parts = [part for hand in hands for part in hand if len(part)]
        shapes = [batch_of(sources[part], targets[part], is_padded=is_padded) for part in parts]
        found.append(max(shapes, key=_tokens))
    return sorted(found, key=_tokens)[len(found) // 2]


def batch_of(sources: LengthArray, targets: LengthArray, *, is_padded: bool = False) -> Batch:
    """Returns the micro-batch of examples of these lengths.

    Args:
        sources: (num_examples,) tokens of each.
        targets: (num_examples,) tokens of each.
        is_padded: whether the network computes padding.
    """
    if is_padded:
        return Batch(len(targets), int(sources.max()), int(targets.max()))
    source, target = float(sources.mean()), float(targets.mean())
    # Almost all pairs of tokens are of targets.
    return Batch(len(targets), source, target, spread=float((targets**2.0).mean()) / target**2)


def _tokens(batch: Batch) -> float:
    return batch.all_source_tokens + batch.all_target_tokens


def _log_normal(quantiles: list[float], median: float, mean: float, longest: int) -> LengthArray:
    deviation = math.sqrt(2 * math.log(mean / median))
    values = [min(round(median * math.exp(deviation * quantile)), longest) for quantile in quantiles]
    return np.asarray(values, dtype=np.int64)
