"""What one round of `train_throughput.py` is, and what an arm of it found; read without PyTorch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ARMS = ("ours", "default", "best", "padded")
TOKENIZER = "tokenizer"
"""Folder of the tokenizer that every arm uses, in that of the job."""


@dataclass(frozen=True)
class Settings:
    """What Seq2SeqTrainer is told beyond the common part.

    Attributes:
        precision: `fp32` or `bf16`.
        attention: of transformers; `sdpa` is its own choice for T5.
        accumulation: micro-batches of a step.
        is_grouped: whether recipes of similar lengths go into a batch.
        is_padded: whether every recipe is as long as the limits.
        device: `cpu` or `cuda`.
    """

    precision: str = "fp32"
    attention: str = "sdpa"
    accumulation: int = 1
    is_grouped: bool = False
    is_padded: bool = False
    device: str = "cpu"

    def __str__(self) -> str:
        return f"{self.precision}, {self.attention}, accumulation {self.accumulation}"


DEFAULT = Settings()
PADDED = Settings(is_padded=True)
BEST = Settings(is_grouped=True)
"""Where the search for the fastest settings begins."""
CHOICES: tuple[dict[str, Any], ...] = ({"precision": "bf16"}, {"attention": "eager"}, {"accumulation": 2})
"""What is tried beside it, one after the other; what is faster stays."""


@dataclass(frozen=True)
class Job:
    """One round.

    Attributes:
        folder: for caches and outputs; holds the tokenizer.
        overrides: the configuration of every arm, but for the data.
        examples_file: the recipes of the round, as pairs.
        arms: what is compared.
        order: turns the order of the arms.
        num_threads: of each arm.
        best: settings of the arm `best`.
        max_seconds: an arm of Seq2SeqTrainer stops after the step that passes this; None lets it end.
    """

    folder: str
    overrides: tuple[str, ...]
    examples_file: str
    arms: tuple[str, ...]
    order: int
    num_threads: int
    best: Settings = BEST
    max_seconds: float | None = None

    def write(self, path: Path) -> Path:
        """Leaves the job for another process."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: Path) -> Job:
        """Takes up what `write` left."""
        data = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            **data
            | {
                "overrides": tuple(data["overrides"]),
                "arms": tuple(data["arms"]),
                "best": Settings(**data["best"]),
            }
        )

    def settings(self, arm: str) -> Settings:
        """Returns what Seq2SeqTrainer is told in one of its arms."""
        return {"default": DEFAULT, "best": self.best, "padded": PADDED}[arm]


@dataclass(frozen=True)
class Measured:
    """What an arm found in one round.

    Attributes:
        precision: that it computed in.
        num_steps: optimizer steps.
        num_examples: recipes learnt from.
        num_target_tokens: of these.
        num_real_tokens: source and target tokens of these.
        num_computed_tokens: positions that were computed for them.
        wall_seconds: of all steps.
        cpu_seconds: of all steps, over all threads.
        flops: arithmetic of the recipes, without padding.
        peaks: fastest matrix product by precision, in operations a second, measured in the same process; in fp32 the
            mean of before and after the steps.
        first_loss: of the recipes before the first step.
        loss: of the recipes after the last one.
    """

    precision: str
    num_steps: int
    num_examples: int
    num_target_tokens: int
    num_real_tokens: int
    num_computed_tokens: int
    wall_seconds: float
    cpu_seconds: float
    flops: float
    peaks: dict[str, float]
    first_loss: float
    loss: float

    @property
    def recipes_per_second(self) -> float:
        """By the clock."""
        return self.num_examples / self.wall_seconds

    @property
    def padding_share(self) -> float:
        """Share of the computed positions that hold no token."""
        return 1.0 - self.num_real_tokens / self.num_computed_tokens
