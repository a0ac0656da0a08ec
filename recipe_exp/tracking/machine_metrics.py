"""Which of the logged metrics say how fast the machine was, so that no two runs share them."""

from __future__ import annotations

MACHINE_METRICS = frozenset(
    {
        "train/target_tokens_per_second",
        "train/recipes_per_second",
        "train/utilisation",
        "train/compile_seconds",
        "train/compile_speedup",
        "train/data_wait_share",
        "train/evaluation_share",
        "train/logging_share",
        "train/checkpoint_share",
    }
)
"""All others are the same whenever a run is repeated."""
